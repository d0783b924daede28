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


@pytest.mark.parametrize("content", ['{"padding":' + '{"a":' * 50_000, '{"fact":' + "[" * 50_000])
def test_a_record_that_is_nested_too_deep_is_like_any_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"m\.json: it is nested too deep; correct the record or remove it"):
        read_record(path)


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


@pytest.mark.parametrize("location", ["weights/layer 0.bin", "a.onnx", "w" * 200 + ".json"])
def test_the_digest_finds_weights_by_what_the_file_says_of_them(tmp_path: Path, location: str) -> None:
    inside = onnx.load(onnx_models.mlp(tmp_path / "inside.onnx", (64, 128, 10)))
    path = tmp_path / "b" / "model.onnx"
    weights = path.parent / location
    weights.parent.mkdir(parents=True)
    onnx.save(inside, path, save_as_external_data=True, location=location, size_threshold=100)
    load(path)
    first = digest_of(path, Record())
    weights.write_bytes(weights.read_bytes()[::-1])
    assert digest_of(path, Record()) != first


@pytest.mark.parametrize("location", [b"../other", b"/dev/zero", b"\xff\x7f", b"\0", b"x" * 300, b""])
def test_the_digest_reads_nothing_that_is_not_beside_the_model(tmp_path: Path, location: bytes) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "model.onnx"
    size = bytes([len(location)]) if len(location) < 128 else bytes([len(location) % 128 + 128, len(location) // 128])
    (tmp_path / "other").write_text("1")
    path.write_bytes(b"\x0a\x08location\x12" + size + location)
    first = digest_of(path, Record())
    (tmp_path / "other").write_text("2")
    assert digest_of(path, Record()) == first
