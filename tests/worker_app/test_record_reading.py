"""How a model's file is read while others write it, and how it is read in pieces."""

import subprocess
import sys
from pathlib import Path

import pytest

from inference_site.lib.record import Record
from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE_S
from worker_app import record
from worker_app.record import digest_of

# Somebody begins to copy another file over the model between its being opened and its being searched.
CUT_OFF = """
import sys
from pathlib import Path
from inference_site.lib.record import Record
from worker_app import record

path = Path(sys.argv[1])

class CutOff:
    def finditer(self, content):
        path.write_bytes(b"")
        return found.finditer(content)

found, record._LOCATION = record._LOCATION, CutOff()
print(len(record.digest_of(path, Record())))
"""


def test_a_model_that_is_copied_over_while_it_is_read_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(2**20))
    done = subprocess.run(
        [sys.executable, "-c", CUT_OFF, path], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "64\n"), done.stderr


@pytest.mark.parametrize("before", [0, 1, 3, 4086, 4087, 4096, 5000, 8000])
@pytest.mark.parametrize("after", [0, 7, 4090, 4200])
def test_weights_are_found_wherever_the_pieces_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    monkeypatch.setattr(record, "_PIECE_BYTES", 4096)
    weights = tmp_path / "weights.bin"
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * before + b"\x0a\x08location\x12\x0bweights.bin" + b"\xff" * after)
    (tmp_path / "weights").write_text("not these")
    found = []
    for text in ("1", "2"):
        weights.write_text(text)
        found.append(digest_of(path, Record()))
    assert found[0] != found[1]
    (tmp_path / "weights").write_text("nor these")
    assert digest_of(path, Record()) == found[1]
