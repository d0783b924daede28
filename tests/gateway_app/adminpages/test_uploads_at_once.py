"""Uploads that several requests are busy with at once: the order in which that shows is forced."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from gateway_app.adminpages import examination, uploads
from gateway_app.adminpages.uploads import GONE, Upload, UploadError
from tests.gateway_app.test_admin import sentences
from tests.support.waiting import PATIENCE_S

FORM = "/admin/gateway_app/modelrecord/upload/"
REPORT = json.dumps({"ok": True, "findings": [], "proposed": {}, "reasons": {}})


@pytest.fixture
def repository(tmp_path: Path, settings: Any) -> Path:
    settings.MODEL_REPOSITORY = tmp_path
    return tmp_path


@pytest.fixture
def upload(repository: Path) -> Upload:
    """Whole, and examined."""
    found = uploads.begin(repository, "text", 4, 1)
    found.append(0, [b"1234"])
    found.report.write_text(REPORT)
    return found


@pytest.fixture
def ada(client: Client, db: None) -> Client:
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough one"))
    return client


def test_a_part_that_is_sent_again_while_it_is_written_comes_once(repository: Path) -> None:
    upload = uploads.begin(repository, "text", 4, 1)
    begun, go_on = threading.Event(), threading.Event()
    answers: list[str] = []

    def stalls() -> Iterator[bytes]:
        begun.set()
        yield b"12"
        assert go_on.wait(PATIENCE_S)
        yield b"34"

    def again() -> None:
        try:
            upload.append(0, [b"1234"])
        except UploadError as error:
            answers.append(str(error))

    first = threading.Thread(target=upload.append, args=(0, stalls()))
    second = threading.Thread(target=again)
    first.start()
    assert begun.wait(PATIENCE_S)
    second.start()
    second.join(0.2)  # time enough to write between the two halves, if it could
    go_on.set()
    first.join(PATIENCE_S)
    second.join(PATIENCE_S)
    assert upload.file.read_bytes() == b"1234"
    assert answers == ["4 bytes have come, and these are from byte 0 on; go on from there."]


@pytest.mark.parametrize("method", ["get", "post"])
def test_what_is_discarded_while_a_page_is_made_is_not_found(
    ada: Client, upload: Upload, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    find = uploads.find

    def just_found(repository: Path, token: str) -> Upload | None:
        found = find(repository, token)
        upload.discard()
        return found

    monkeypatch.setattr("gateway_app.adminpages.uploadviews.find", just_found)
    url = f"{FORM}{upload.token}/"
    response = ada.get(url) if method == "get" else ada.post(f"{url}part/?offset=4", b"", content_type="text/plain")
    assert response.status_code == 404


def test_what_is_stored_twice_at_once_is_stored_once(
    ada: Client, upload: Upload, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = examination.read_report

    def stored_just_then(found: Upload) -> examination.Report | None:
        report = read(found)
        assert upload.publish() == "1"
        return report

    monkeypatch.setattr("gateway_app.adminpages.uploadviews.read_report", stored_just_then)
    response = ada.post(f"{FORM}{upload.token}/", {"action": "apply"}, follow=True)
    assert GONE in sentences(response)
    assert [path.name for path in (repository / "text").iterdir()] == ["1"]


def test_an_upload_that_another_request_ends_does_not_keep_a_new_one_from_beginning(
    upload: Upload, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def ended_just_then(path: Path, **options: Any) -> os.stat_result:
        if path == upload.folder and upload.report.exists():
            shutil.rmtree(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", ended_just_then)
    assert uploads.begin(repository, "other", 1, 1).file.exists()
    assert not upload.folder.exists()


def test_between_two_looks_nobody_is_told_that_the_first_was_interrupted(
    upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "_examine", lambda upload: None)
    unlink, seen = Path.unlink, []

    def looked_at(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        seen.append(examination.is_under_way(upload))

    monkeypatch.setattr(Path, "unlink", looked_at)
    examination.begin_examination(upload).join()
    assert seen == [True]


def test_a_doctor_whose_patient_is_discarded_ends(upload: Upload) -> None:
    upload.discard()
    examination._examine(upload)
    assert not upload.folder.exists()
