"""What `runnode` serves by its arguments and its environment, and how a worker is put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError

from tests.support import onnx_models
from worker_app.engine import ModelError
from worker_app.management.commands.runnode import Command, _models
from worker_app.service import build_node

BUNDLED = Path("/project/models/digits.onnx")
GIVEN = Path("/given/model.onnx")
FOLDER = Path("/models")


@pytest.mark.parametrize(
    ("argument", "option", "model_path", "repository", "expected"),
    [
        (None, None, None, None, (BUNDLED, None)),
        (GIVEN, None, None, None, (GIVEN, None)),
        (None, None, GIVEN, None, (GIVEN, None)),
        (None, FOLDER, None, None, (None, FOLDER)),
        (None, None, None, FOLDER, (None, FOLDER)),
        (None, None, GIVEN, FOLDER, (GIVEN, FOLDER)),
        (None, FOLDER, GIVEN, None, (GIVEN, FOLDER)),
        (GIVEN, FOLDER, None, None, (GIVEN, FOLDER)),
        (GIVEN, None, None, FOLDER, (GIVEN, FOLDER)),
        (None, FOLDER, None, Path("/others"), (None, FOLDER)),
    ],
)
def test_what_is_served_by_arguments_and_environment(
    settings: Any,
    argument: Path | None,
    option: Path | None,
    model_path: Path | None,
    repository: Path | None,
    expected: tuple[Path | None, Path | None],
) -> None:
    settings.MODEL_REPOSITORY = repository
    settings.MODEL_PATH_IS_DEFAULT = model_path is None
    settings.MODEL_PATH = model_path or (None if repository else BUNDLED)
    assert _models({"model_path": argument, "repository": option}) == expected


@pytest.mark.parametrize("node_id", ["", "two words", "a/b", "x" * 101])
def test_a_name_that_is_none_is_refused(node_id: str) -> None:
    with pytest.raises(CommandError, match="is not 1 to 100 of letters"):
        Command().handle(node_id=node_id)


def test_a_worker_of_a_file_and_a_folder_has_both_with_their_records(tmp_path: Path) -> None:
    file = onnx_models.linear(tmp_path / "one.onnx")
    path = tmp_path / "models" / "two" / "3" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx_models.classifier(path)
    (tmp_path / "models" / "two" / "model.json").write_text(json.dumps({"output": "label", "sessions": 2}))
    node = build_node("worker_1", file, tmp_path / "models", tmp_path / "running")
    assert [(info.name, info.version, info.output) for info in node.infos()] == [
        ("one", "1", "output"),
        ("two", "3", "label"),
    ]
    assert node.find("two", None).engine.sessions == 2
    assert node.default == "one"  # the one that was named, whatever the others are called
    assert (tmp_path / "running").exists()
    node.close()


def test_a_file_that_is_not_there_or_is_no_model_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model at .*none\.onnx; set MODEL_PATH"):
        build_node("worker_1", tmp_path / "none.onnx", None)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"bad\.onnx can't be loaded"):
        build_node("worker_1", bad, None)
    good = onnx_models.linear(tmp_path / "good.onnx")
    good.with_suffix(".json").write_text("{")
    with pytest.raises(ModelError, match="correct the record or remove it"):
        build_node("worker_1", good, None)
