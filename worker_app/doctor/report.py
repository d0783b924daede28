"""What an examination has found so far, as it travels between the processes and is shown at the end."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_site.lib.record import Record

# What a thorough look takes, in runs of one row.
MANY_RUNS = 200.0


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at. `ok`: True is well, False a fault, None neither: not to be told, or only worth knowing."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


class Tensor(msgspec.Struct, frozen=True):
    """An input or output. A size that may vary is -1 in `shape` and has a name in `symbols`; a fixed one None.

    A symbol that the file leaves unnamed is called `?tensor.axis`. `datatype` is ONNX's own where it can't be served.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    symbols: tuple[str | None, ...]

    @property
    def sizes(self) -> str:
        """Its shape for people."""
        sizes = zip(self.shape, self.symbols, strict=True)
        return f"[{', '.join(str(size) if symbol is None else shown(symbol) for size, symbol in sizes)}]"

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {self.sizes}"


def shown(symbol: str) -> str:
    """A symbol's name for people."""
    return "?" if symbol.startswith("?") else symbol


class Size(msgspec.Struct, frozen=True):
    """One batch size measured: milliseconds of a run (median), and MiB by which memory had grown at its peak."""

    rows: int
    ms: float
    rows_per_s: float
    mib: float


class Recipe(msgspec.Struct, frozen=True):
    """Inputs that the model runs on: the size of each symbol, the largest integer of each input, the kind of floats."""

    lengths: dict[str, int] = {}
    highs: dict[str, int] = {}
    floats: str = "normal"

    def __str__(self) -> str:
        return "".join(f", {shown(symbol)} = {length}" for symbol, length in self.lengths.items())


class Chart(msgspec.Struct, kw_only=True):
    """All that is known of one file. Each stage adds to it; `doing` is the stage at work, "" between two of them."""

    file: str
    name: str
    record: Record = Record()  # what the owner has said already
    limit_s: float = 60.0  # of the process at work
    doing: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    findings: list[Finding] = []
    sizes: list[Size] = []
    providers: dict[str, int] = {}
    proposed: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    runs: bool = False  # loaded, and ran on ordinary inputs
    on_cpu: bool = False  # whatever there is: CUDA does not run it
    recipe: Recipe = Recipe()
    run_s: float = 0.0  # of one row, the first time
    deterministic: bool = True
    batches: bool = False  # really, not only by its shapes

    @property
    def is_slow(self) -> bool:
        """Whether the time will not do for as many runs as there would be otherwise."""
        return self.run_s * MANY_RUNS > self.limit_s

    def good(self, name: str, detail: str) -> None:
        self.findings.append(Finding(name, True, detail))

    def bad(self, name: str, detail: str, fix: str) -> None:
        self.findings.append(Finding(name, False, detail, fix))

    def note(self, name: str, detail: str, fix: str = "") -> None:
        self.findings.append(Finding(name, None, detail, fix))

    def propose(self, member: str, value: Any, reason: str) -> None:
        """`member` is one of Record's; `reason` says to its owner why."""
        self.proposed[member] = value
        self.reasons[member] = reason

    def as_report(self) -> dict[str, Any]:
        """The JSON of `diagnose --model --json`. `ok`: it can be served, with the proposed settings."""
        report = {
            "ok": self.runs,
            "file": self.file,
            "name": self.name,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "findings": self.findings,
            "sizes": self.sizes,
            "providers": self.providers,
            "proposed": msgspec.convert(self.proposed, Record),
            "reasons": self.reasons,
        }
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report))
        return plain
