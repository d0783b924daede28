"""What a worker finds on disk."""

import json
import os
from pathlib import Path

import pytest

from worker_app.repository import Repository, newest


def put(folder: Path, name: str, version: str, content: bytes = b"x") -> Path:
    path = folder / name / version / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_version_of_every_model_is_found(tmp_path: Path) -> None:
    for name, version in (("a", "1"), ("a", "2"), ("a", "10"), ("b.c-d_e", "3")):
        put(tmp_path, name, version)
    found = Repository(folder=tmp_path).look()
    assert {name: sorted(versions, key=int) for name, versions in found.items()} == {
        "a": ["1", "2", "10"],
        "b.c-d_e": ["3"],
    }
    source = found["a"]["10"]
    assert (source.name, source.version, source.path) == ("a", "10", tmp_path / "a/10/model.onnx")
    assert newest(found["a"]) == "10"
    assert newest({}) is None


def test_what_is_no_model_is_ignored_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a", "1")
    for name, version in (
        (".hidden", "1"),
        ("two words", "1"),
        ("a", "latest"),
        ("stats", "1"),
        ("a", "01"),
        ("a", "0"),
        ("a", ".2"),
    ):
        put(tmp_path, name, version)
    (tmp_path / "a" / "7").mkdir()
    (tmp_path / "a" / "9").touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "empty").mkdir()
    repository = Repository(folder=tmp_path)
    for _ in range(2):
        assert {name: list(versions) for name, versions in repository.look().items()} == {"a": ["1"]}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == 6
    assert any("two words': it is ignored: a model's name is" in line for line in said)
    assert any("latest': it is ignored: a version is a whole number" in line for line in said)
    assert any("7': it is ignored: there is no model.onnx in it" in line for line in said)
    assert not any(".hidden" in line or "README" in line for line in said)


def test_a_name_that_leads_out_of_the_folder_is_none(tmp_path: Path) -> None:
    put(tmp_path, "outside", "1")
    (tmp_path / "repository").mkdir()
    repository = Repository(folder=tmp_path / "repository")
    for name in ("../outside", "..", ".", "", "/etc", "a/b"):
        assert repository.versions(name) == {}


def test_a_record_beside_the_file_comes_before_that_of_the_model(tmp_path: Path) -> None:
    for version in ("1", "2"):
        put(tmp_path, "a", version)
    (tmp_path / "a" / "model.json").write_text(json.dumps({"batch_size": 4}))
    (tmp_path / "a" / "2" / "model.json").write_text(json.dumps({"batch_size": 8}))
    found = Repository(folder=tmp_path).look()["a"]
    assert found["1"].record.batch_size == 4
    assert found["2"].record.batch_size == 8


def test_a_record_that_cannot_be_read_is_that_models_fault_alone(tmp_path: Path) -> None:
    put(tmp_path, "a", "1")
    put(tmp_path, "b", "1")
    for record in (
        '{"batch_size": "many"}',
        "{",
        '{"padding":' + '{"a":' * 50_000,
        "[]",
        '{"name": "\\ud800"}',
        "\x00",
    ):
        (tmp_path / "a" / "1" / "model.json").write_text(record)
        found = Repository(folder=tmp_path).look()
        assert str(tmp_path / "a" / "1") in found["a"]["1"].fault
    assert found["b"]["1"].fault == ""


def test_the_one_file_is_named_by_its_record_or_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "digits_v3.onnx"
    path.write_bytes(b"x")
    assert list(Repository(path).look()) == ["digits_v3"]
    path.with_suffix(".json").write_text(json.dumps({"name": "digits"}))
    found = Repository(path).look()
    assert found["digits"]["1"].path == path
    assert Repository(path).versions("digits").keys() == {"1"}
    assert Repository(path).versions("other") == {}


def test_the_one_file_comes_before_a_model_of_the_same_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    put(tmp_path / "models", "a", "5")
    put(tmp_path / "models", "b", "1")
    repository = Repository(path, tmp_path / "models")
    assert {name: list(versions) for name, versions in repository.look().items()} == {"a": ["1"], "b": ["1"]}
    assert repository.versions("a")["1"].path == path
    assert "is ignored" in caplog.text


def test_weights_beside_the_one_file_and_in_folders_belong_to_it(tmp_path: Path) -> None:
    path, version = tmp_path / "m.onnx", put(tmp_path / "models", "a", "1").parent
    path.write_bytes(b"x")
    repository = Repository(path, tmp_path / "models")

    def states() -> tuple[object, object]:
        return repository.versions("m")["1"].state, repository.versions("a")["1"].state

    for place, its in (
        (tmp_path / "m.onnx.data", 0),
        (tmp_path / "m.data", 0),
        (tmp_path / "m_weights" / "layer.0", 0),
        (tmp_path / "m.onnx_data_1", 0),
        (tmp_path / "m.bin", 0),
        (version / "weights" / "layer.0", 1),
    ):
        for content in (b"1", b"22", None):
            before = states()
            place.parent.mkdir(exist_ok=True)
            if content is None:
                place.unlink()
            else:
                place.write_bytes(content)
            after = states()
            assert after[its] != before[its]
            assert after[1 - its] == before[1 - its]
    # Records are read, and these are of others.
    before = states()
    for name in ("m.json", "m.onnx.json", "m2.onnx", "m2.onnx.data", "m.log", "m.onnx.part", "weights"):
        (tmp_path / name).write_text("{}")
    assert states() == before


def test_touched_files_are_told_from_untouched_ones(tmp_path: Path) -> None:
    path = put(tmp_path, "a", "1")
    repository = Repository(folder=tmp_path)

    def state() -> object:
        return repository.versions("a")["1"].state

    first = state()
    assert state() == first
    (path.parent / "weights.bin").write_bytes(b"w")
    second = state()
    assert second != first
    os.utime(path.parent / "weights.bin", (5, 5))
    assert state() != second
    third = state()
    (path.parent / "model.json").write_text("{}")
    assert state() == third  # what it says is compared itself


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Repository(folder=tmp_path / "none").look() == {}
    assert Repository().look() == {}
    assert Repository(folder=tmp_path).versions("a") == {}
    assert str(tmp_path / "a" / "1" / "model.onnx") in Repository(folder=tmp_path).where("a")


def test_it_says_what_is_in_a_folder_without_versions(tmp_path: Path) -> None:
    where = Repository(folder=tmp_path).where
    wanted = f"put it at {tmp_path / 'a' / '1' / 'model.onnx'}"
    assert where("a") == wanted
    (tmp_path / "a" / "v1").mkdir(parents=True)
    (tmp_path / "a" / "v1" / "model.onnx").touch()
    (tmp_path / "a" / "2").mkdir()
    (tmp_path / "a" / "2" / "net.onnx").touch()
    assert where("a") == (
        f"nothing in {tmp_path / 'a'} (2, v1) is the folder of a version with a model.onnx in it: {wanted}"
    )
    for number in range(9):
        (tmp_path / "a" / f"w{number}").touch()
    assert "(2, v1, w0, w1, w2, ...)" in where("a")
    # A name that is no model's is not looked for.
    assert where("..").startswith("put it at ")


def test_a_file_in_the_place_of_another_is_told_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    path = put(tmp_path, "a", "1")
    path.write_bytes(b"old")
    os.utime(path, (5, 5))
    before = Repository(folder=tmp_path).versions("a")["1"].state
    new = tmp_path / "new"
    new.write_bytes(b"new")
    os.utime(new, (5, 5))
    new.rename(path)
    replaced = Repository(folder=tmp_path).versions("a")["1"].state
    assert replaced != before
    path.write_bytes(b"two")  # in the same inode
    os.utime(path, (5, 5))
    assert Repository(folder=tmp_path).versions("a")["1"].state != replaced


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("digits.v2_final-1", "digits.v2_final-1"),
        ("my model (1)", "my-model-1"),
        ("stats", "model-stats"),
        ("a" * 150, "a" * 100),
        ("a\r\nX-Evil: 1", "a-X-Evil-1"),
        ("<img src=x>", "img-src-x"),
        ("\u00e4\u00f6", "model"),
        ("_x", "x"),
    ],
)
def test_a_file_has_a_name_that_every_client_can_send(
    tmp_path: Path, stem: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"{stem}.onnx"
    path.write_bytes(b"x")
    (source,) = Repository(path).look()[name].values()
    assert (source.name, source.path) == (name, path)
    assert ("is no name for a model" in caplog.text) == (stem != name)
    assert "\nX-Evil" not in caplog.text
    assert list(Repository(path).versions(name)) == ["1"]


def test_a_name_in_a_record_is_made_fit_too(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    path.with_suffix(".json").write_text(json.dumps({"name": "my model"}))
    assert list(Repository(path).look()) == ["my-model"]
