"""diagnose --model: a report as text and JSON, an exit status, and settings that are saved only when asked for."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway_app.models import ModelRecord, Revision
from tests.support import faulty_models, onnx_models


def run(*arguments: object) -> str:
    out = StringIO()
    call_command("diagnose", *map(str, arguments), stdout=out, stderr=out)
    return out.getvalue()


def in_repository(settings: LazySettings, folder: Path, name: str = "mixer", version: str = "1") -> Path:
    settings.MODEL_REPOSITORY, settings.MODEL_PATH = folder, None
    path = folder / name / version / "model.onnx"
    path.parent.mkdir(parents=True)
    return path


def test_a_model_that_can_be_served(tmp_path: Path) -> None:
    text = run("--model", onnx_models.linear(tmp_path / "small.onnx"))
    assert "✓ batching: " in text
    assert "batch_size = " in text
    assert text.splitlines()[-1] == "small can be served; nothing has been changed"


def test_its_report_as_json(tmp_path: Path) -> None:
    report: dict[str, Any] = json.loads(run("--model", onnx_models.linear(tmp_path / "small.onnx"), "--json"))
    assert (report["ok"], report["name"], report["file"]) == (True, "small", str(tmp_path / "small.onnx"))
    assert report["proposed"]["batches"] is True


def test_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(onnx_models.linear(path).read_bytes()[:-20])
    out = StringIO()
    with pytest.raises(CommandError, match="broken can't be served"):
        call_command("diagnose", "--model", str(path), stdout=out)
    assert "✗ file: " in out.getvalue()
    assert "    → copy or export it again" in out.getvalue()
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("diagnose", "--model", str(path), "--json", stdout=out)
    assert json.loads(out.getvalue())["ok"] is False


@pytest.mark.django_db
def test_without_apply_nothing_is_changed(settings: LazySettings, tmp_path: Path) -> None:
    run("--model", faulty_models.softmax_over_the_batch(in_repository(settings, tmp_path)))
    assert not ModelRecord.objects.exists()


@pytest.mark.django_db
def test_apply_saves_what_is_proposed_for_a_model_of_the_repository(settings: LazySettings, tmp_path: Path) -> None:
    path = faulty_models.softmax_over_the_batch(in_repository(settings, tmp_path))
    ModelRecord.objects.create(name="mixer", batches=True, deadline_ms=300)
    text = run("--model", path, "--apply")
    assert text.splitlines()[-1] == "mixer can be served, with 1 fault to know of; the proposed settings are saved"
    row = ModelRecord.objects.get()
    assert (row.name, row.batches, row.cached, row.deadline_ms) == ("mixer", False, True, 300)
    assert row.loaded
    assert row.order_number > 0  # workers load it anew
    assert Revision.objects.latest("id").payload["models"][0]["batches"] is False


@pytest.mark.django_db
def test_apply_saves_padding_and_warm_up_for_the_model_of_model_path(settings: LazySettings, tmp_path: Path) -> None:
    settings.MODEL_PATH = faulty_models.sentence(tmp_path / "sentence.onnx", heeds_mask=True)
    settings.MODEL_REPOSITORY = None
    run("--model", settings.MODEL_PATH, "--apply")
    row = ModelRecord.objects.get()
    assert (row.name, row.padding_dimension, row.padding_mask) == ("sentence", "sequence", "attention_mask")
    assert row.record.padding is not None
    assert row.record.padding.buckets == (16, 32, 64, 128, 256, 512)


@pytest.mark.django_db
def test_apply_to_what_cannot_be_served_changes_nothing(settings: LazySettings, tmp_path: Path) -> None:
    path = in_repository(settings, tmp_path)
    path.write_bytes(b"")
    with pytest.raises(CommandError, match="mixer can't be served"):
        run("--model", path, "--apply")
    assert not ModelRecord.objects.exists()


def test_apply_to_a_file_that_nobody_serves(settings: LazySettings, tmp_path: Path) -> None:
    in_repository(settings, tmp_path)
    for path in (
        tmp_path / "m.onnx",
        tmp_path / "mixer" / "latest" / "model.onnx",
        tmp_path / "mixer" / "1" / "a.onnx",
    ):
        with pytest.raises(CommandError, match=f"no worker serves {path}, .* put it at {tmp_path}/<name>/<version>/"):
            run("--model", path, "--apply")


@pytest.mark.django_db
def test_a_database_that_does_not_answer_is_told(
    settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    def away(*_: object) -> None:
        raise OperationalError("no such table: gateway_app_modelrecord")

    monkeypatch.setattr("gateway_app.modelcontrol.order", away)
    path = onnx_models.linear(in_repository(settings, tmp_path))
    with pytest.raises(CommandError, match=r"settings of 'mixer' can't be saved: .*no such table.*manage.py migrate"):
        run("--model", path, "--apply")


@pytest.mark.django_db
def test_a_name_that_no_model_may_have_is_told(settings: LazySettings, tmp_path: Path) -> None:
    path = onnx_models.linear(in_repository(settings, tmp_path, name="-a name "))
    with pytest.raises(CommandError, match="settings of '-a name ' can't be saved: "):
        run("--model", path, "--apply")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--apply"], "name its file with --model"), (["--model", "x.onnx", "--timeout", "0"], "seconds, more than 0")],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)
