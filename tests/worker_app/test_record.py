"""A model's record, and the digest that tells what answers alike from what may not."""

from pathlib import Path

import onnx
import pytest

from inference_site.lib.record import Padding, Record
from tests.support import onnx_models
from tests.support.engines import load
from worker_app.record import RecordError, digest_of, load_record, read_record


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"pad_with_zeros": "yes"}', '{"output": 5}', '{"batch_size": 0}', '{"name": "\\ud800"}']
)
def test_a_record_that_cannot_be_read_names_its_file(tmp_path: Path, content: str) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text(content)
    with pytest.raises(RecordError, match=r"m\.json: .*correct the record or remove it"):
        load_record(path)


def test_a_record_that_is_not_there_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.json"):
        read_record(tmp_path / "gone.json")


def test_a_record_has_the_name_of_its_file_unless_it_says_another(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    assert load_record(path) == Record(name="m")
    path.with_name("m.onnx.json").write_text('{"batch_size": 4, "fact": [1, {}]}')
    assert load_record(path) == Record(name="m", batch_size=4)
    path.with_name("m.json").write_text('{"name": "other"}')
    assert load_record(path) == Record(name="other")


def test_the_digest_tells_models_apart(tmp_path: Path) -> None:
    one = load(onnx_models.linear(tmp_path / "a.onnx"))
    other = load(onnx_models.linear(tmp_path / "b.onnx", n_out=2))
    assert one.digest != other.digest
    assert len(one.digest) == 64
    assert one.digest == digest_of(one.path, one.record)


def test_the_digest_tells_records_apart_that_change_the_answers_and_no_others(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "a.onnx")
    plain = digest_of(path, Record())
    for same in (
        Record(name="x"),
        Record(batch_size=3),
        Record(cached=False),
        Record(sessions=2),
        Record(deadline_ms=9),
    ):
        assert digest_of(path, same) == plain
    padding = Padding(dimension="n", buckets=(4,))
    others = [Record(pad_with_zeros=True), Record(output="output"), Record(padding=padding)]
    assert len({plain, *(digest_of(path, each) for each in others)}) == 4


def test_the_digest_is_also_of_weights_that_lie_beside_the_file(tmp_path: Path) -> None:
    inside = onnx.load(onnx_models.mlp(tmp_path / "inside.onnx", (64, 128, 10)))
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "model.onnx"
    onnx.save(inside, path, save_as_external_data=True, location="model.weights", size_threshold=100)
    (tmp_path / "a" / "notes.txt").write_text("for people")
    first = load(path).digest
    weights = path.with_name("model.weights")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    second = digest_of(path, Record())
    assert second != first
    (tmp_path / "a" / "notes.txt").write_text("for other people")
    assert digest_of(path, Record()) == second
