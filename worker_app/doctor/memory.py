"""Memory of this process and machine, in MiB, as Linux tells it; 0 where it does not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR, _MEMINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


def resident_mib() -> float:
    return _kib(_STATUS, "VmRSS") / 1024


def peak_mib() -> float:
    """The most since the process began, or since `forget_peak`."""
    return _kib(_STATUS, "VmHWM") / 1024


def forget_peak() -> bool:
    """Whether it did: not every kernel can."""
    with suppress(OSError):
        _CLEAR.write_text("5")
    return 0 < peak_mib() <= resident_mib() + 1


def available_mib() -> float:
    """What the machine could still give, unless a container's limit is lower."""
    return _kib(_MEMINFO, "MemAvailable") / 1024


def _kib(file: Path, name: str) -> int:
    with suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
