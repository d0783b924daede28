"""Why a file can't be loaded, in a sentence with the fix; from the file itself and from what ONNX Runtime says."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime as ort

from worker_app.doctor.reasons import reason_of

RE_EXPORT = "export the model again"
_LFS = b"version https://git-lfs"


def look_at(path: Path) -> tuple[str, str] | None:
    """(what is wrong, fix) of a file that need not be given to ONNX Runtime at all; None if it may be a model."""
    if path.is_dir():
        return f"{path} is a directory", "name the .onnx file in it"
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        return f"there is no file at {path}", "name an .onnx file that exists"
    except OSError as error:
        return f"{path} can't be read: {error.strerror}", "let this user read it"
    if not head:
        return f"{path} is empty", "copy or export it again: the disk may have been full"
    if head.startswith(_LFS):
        return f"{path} is only a pointer of Git LFS, not the model", "fetch it with `git lfs pull`"
    # An ONNX file is a protobuf message; text of any kind begins with a printable character, and such a message never.
    if head.lstrip()[:1] in (b"<", b"{") or head.startswith(b"PK"):
        return (
            f"{path} is no ONNX model: it begins with {head[:16]!r}",
            "download or export it again: it may be an error page, a PyTorch file or an archive",
        )
    return None


def explain(path: Path, message: str) -> tuple[str, str]:
    """(what is wrong, fix) from the message of a session that could not be made."""
    said = message.strip()
    for pattern, detail, fix in _CAUSES:
        if found := re.search(pattern, said, re.DOTALL):
            values = {"path": path, "size": path.stat().st_size, "version": ort.__version__, **found.groupdict()}
            return detail.format(**values), fix.format(**values)
    return f"{path} can't be loaded: {reason_of(said)}", f"mend what it names and {RE_EXPORT}"


_CAUSES = (
    (
        r"External data path does not exist: \"?(?P<data>[^\"\n]+)",
        "{path} keeps its weights in another file, {data}, which is not there",
        "copy that file beside it under the same name, or save the model in one file",
    ),
    (
        r"External initializer: (?P<tensor>\S+) .*file_length: (?P<found>\d+)",
        "the file with the weights of {path} is cut off: {found} bytes, too few for {tensor!r}",
        "copy the weights' file again: the copy did not finish",
    ),
    (
        r"[Ee]xternal data(?P<rest>[^\n]*)",
        "{path} keeps its weights in another file, which can't be used: external data{rest}",
        "keep that file beside the model, in the same directory or below it",
    ),
    (
        r"Protobuf parsing failed|No graph was found in the protobuf",
        "{path} is truncated or corrupt: {size} bytes that are no whole ONNX model",
        "copy or export it again, and compare its size or checksum with the original's",
    ),
    (
        r"Opset (?P<opset>\d+) is under development",
        "{path} needs opset {opset}, which ONNX Runtime {version} does not know",
        "export it with an older opset (opset_version=21 or below), or install a newer ONNX Runtime",
    ),
    (
        r"Unsupported model IR version: (?P<ir>\d+), max supported IR version: (?P<most>\d+)",
        "{path} has IR version {ir}; ONNX Runtime {version} reads up to {most}",
        "set model.ir_version = {most} with the onnx package and save it, or install a newer ONNX Runtime",
    ),
    (
        r"No Op registered for (?P<op>\S+) with domain_version of (?P<opset>\d+)",
        "{path} uses the operator {op}, which opset {opset} does not have",
        "export it with standard operators, or with the opset that has this one",
    ),
    (
        r"Fatal error: (?P<op>\S+?)\(-?\d+\) is not a registered function/op",
        "{path} uses the operator {op}, which is not part of ONNX Runtime",
        "export it with standard operators: libraries of custom operators are not loaded",
    ),
    (
        r"Could not find an implementation for (?P<op>\w+)\((?P<opset>\d+)\)",
        "ONNX Runtime {version} has no {op} (opset {opset}) for the datatype that {path} gives it",
        "export it in another datatype: float32 works everywhere",
    ),
)
