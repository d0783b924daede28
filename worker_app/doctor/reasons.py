"""What ONNX Runtime says when it raises, without what only its developers need."""

from __future__ import annotations

import re

LONGEST = 300


def reason_of(error: BaseException | str) -> str:
    """One line of it: no error numbers, no lines of its source, no conditions written in C++."""
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    text = text.rpartition("Status Message: ")[2].rpartition(" was false. ")[2]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.(cc|h):\d+ (\S+\([^)]*\) )?", "", text)[:LONGEST]
