"""A new version of a model by upload: whole or in parts, looked at by the doctor, stored at one stroke."""

import json
import os
import socket
import sys
import time

import pytest
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError

from gateway_app.adminpages import examination, uploads
from gateway_app.adminpages.uploads import UploadError
from gateway_app.models import ModelRecord, Revision
from inference_site.lib.catalog import ModelSettings
from inference_site.lib.record import Padding, Record
from tests.gateway_app.test_admin import sentences
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.django_db

FORM = "/admin/gateway_app/modelrecord/upload/"
LIST = "/admin/gateway_app/modelrecord/"
GOOD = {
    "ok": True,
    "file": "model.onnx",
    "name": "model",
    "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, -1], "symbols": ["batch", "length"]}],
    "outputs": [{"name": "<b>out</b>", "datatype": "FP32", "shape": [-1, 10], "symbols": ["batch", ""]}],
    "findings": [{"name": "batches", "ok": True, "detail": "8 at once are equal to 8 singles", "fix": ""}],
    "sizes": [{"rows": 8, "ms": 1.25, "rows_per_s": 6400.0, "mib": 12.5}],
    "providers": {"CPUExecutionProvider": 12},
    "proposed": {"batch_size": 16, "cached": False, "padding": {"dimension": "length", "buckets": [16, 32]}},
    "reasons": {"batch_size": "16 rows are the quickest", "padding": "the length varies"},
}


@pytest.fixture
def ada(client):
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough one"))
    return client


@pytest.fixture
def repository(tmp_path, settings):
    settings.MODEL_REPOSITORY = tmp_path / "models"
    settings.MODEL_REPOSITORY.mkdir()
    return settings.MODEL_REPOSITORY


@pytest.fixture
def doctor(monkeypatch):
    """doctor(report) or doctor(program="...") is what the model doctor does from then on."""
    threads = []
    begin = examination.begin_examination

    def begin_and_wait(upload):
        threads.append(begin(upload))
        threads[-1].join()

    def says(report=None, program=None):
        text = program or f"print({json.dumps(report)!r})"
        monkeypatch.setattr(examination, "doctor", lambda file: [sys.executable, "-c", text, str(file)])

    monkeypatch.setattr("gateway_app.adminpages.uploadviews.begin_examination", begin_and_wait)
    says(GOOD)
    return says


def send(client, name="text", content=b"a model", **more):
    return client.post(FORM, {"name": name, "file": SimpleUploadedFile("x.onnx", content), **more})


def visible(repository):
    """What a worker sees of the folder."""
    return sorted(
        str(path.relative_to(repository))
        for path in repository.rglob("*")
        if path.is_file() and not path.relative_to(repository).parts[0].startswith(".")
    )


def test_without_a_repository_the_page_says_what_to_set(ada, settings):
    settings.MODEL_REPOSITORY = None
    page = ada.get(FORM).content.decode()
    assert "MODEL_REPOSITORY" in page
    assert "runcluster --repository DIR" in page
    assert '<form method="post" enctype' not in page
    assert send(ada).status_code == 200
    assert "Set MODEL_REPOSITORY" in begin(ada, 5).json()["error"]
    assert ada.get(f"{FORM}{'0' * 32}/").status_code == 404


def test_a_file_is_examined_agreed_to_and_loaded(ada, repository, doctor):
    assert b"Add a version by upload" in ada.get(LIST).content
    response = send(ada)
    assert response.status_code == 302
    assert visible(repository) == []
    page = ada.get(response["Location"]).content.decode()
    for part in (
        "It can be served", "8 at once are equal to 8 singles", "INT64", "batch × length", "batch × 10", "7\xa0bytes",
        "&lt;b&gt;out&lt;/b&gt;", "6,400",
        "<th scope=\"row\">rows per batch</th><td>16</td><td>16 rows are the quickest</td>",
        "<th scope=\"row\">keep results</th><td>no</td>",
        "<th scope=\"row\">lengths to fill up to</th><td>16, 32</td><td>the length varies</td>",
        "Apply these settings and load text",
    ):  # fmt: skip
        assert part in page
    assert not Revision.objects.exists()
    response = ada.post(response["Location"], {"action": "apply"}, follow=True)
    assert response.redirect_chain == [(LIST, 302)]
    assert "Version 1 of text is stored; this list shows how workers load it." in sentences(response)
    assert visible(repository) == ["text/1/model.onnx"]
    assert (repository / "text/1/model.onnx").read_bytes() == b"a model"
    assert list((repository / ".uploads").iterdir()) == []
    assert ModelRecord.objects.get().settings == ModelSettings(
        order=1, record=Record(batch_size=16, cached=False, padding=Padding(dimension="length", buckets=(16, 32)))
    )
    newest = Revision.objects.get()
    assert newest.author == "ada"
    assert newest.summary.startswith("upload: settings of model text added (keep results off, rows per batch 16, ")
    assert newest.summary.endswith("; model text ordered to load")


def test_the_next_version_leaves_the_others_and_other_settings(ada, repository, doctor):
    for name in ("1", "7", "old", "08"):
        (repository / "text" / name).mkdir(parents=True)
    ModelRecord.objects.create(name="text", versions="7", batch_size=4, sessions=2)
    last = Revision.objects.latest("id").pk
    response = ada.post(send(ada)["Location"], {"action": "apply"}, follow=True)
    assert "Version 8 of text is stored" in sentences(response)
    assert visible(repository) == ["text/8/model.onnx"]
    row = ModelRecord.objects.get()
    assert (row.versions, row.batch_size, row.sessions, row.order_number) == ("7, 8", 16, 2, last + 1)


def test_a_model_that_cannot_be_served_is_not_stored(ada, repository, doctor):
    finding = {"name": "loads", "ok": False, "detail": "it is cut off", "fix": "copy it again"}
    doctor({"ok": False, "findings": [finding], "proposed": {}, "reasons": {}})
    url = send(ada)["Location"]
    page = ada.get(url).content.decode()
    assert "It cannot be served" in page
    assert "it is cut off" in page
    assert "copy it again" in page
    assert 'value="apply"' not in page
    response = ada.post(url, {"action": "apply"}, follow=True)
    assert "Nothing is applied" in sentences(response)
    assert visible(repository) == []
    doctor(GOOD)
    ada.post(url, {"action": "examine"})
    assert "It can be served" in ada.get(url).content.decode()
    response = ada.post(url, {"action": "discard"}, follow=True)
    assert "is gone; nothing has changed" in sentences(response)
    assert ada.get(url).status_code == 404
    assert list((repository / ".uploads").iterdir()) == []
    assert not Revision.objects.exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", "It ended with status -9"),
        ("import sys; sys.exit('no such option: --model')", "It ended with status 1: no such option: --model"),
        ("print('[1')", "It ended with status 0: JSONDecodeError"),
        ('print(\'{"ok": true, "proposed": {"batch_size": 0}}\')', "It ended with status 0: ValidationError"),
        ("import time; time.sleep(60)", "It had not ended after 0.5 s and was stopped."),
    ],
)
def test_a_doctor_that_fails_is_a_finding(ada, repository, doctor, monkeypatch, program, says):
    monkeypatch.setattr(examination, "PATIENCE_S", 0.5 if "sleep" in program else PATIENCE_S)
    doctor(program=program)
    page = ada.get(send(ada)["Location"]).content.decode()
    assert says in page
    assert 'value="apply"' not in page
    assert 'value="examine"' in page


def test_the_doctor_is_told_the_file_and_its_time(tmp_path):
    command = examination.doctor(tmp_path / "model.onnx")
    assert command[1].endswith("manage.py")
    assert command[2:] == ["diagnose", "--model", str(tmp_path / "model.onnx"), "--json", "--timeout", "120"]


@pytest.mark.parametrize("gone", ["its process", "its time"])
def test_while_the_doctor_looks_the_page_says_so_and_comes_back(ada, repository, monkeypatch, gone):
    monkeypatch.setattr(examination, "_examine", lambda upload: None)
    url = send(ada)["Location"]
    page = ada.get(url).content.decode()
    assert "The model doctor looks at it" in page
    assert 'http-equiv="refresh"' in page
    mark = next((repository / ".uploads").iterdir()) / "looking"
    if gone == "its process":
        nobody = 2**22 + 1  # beyond what any process is called
        mark.write_text(f"{socket.gethostname()} {nobody}")
    else:
        os.utime(mark, (time.time() - examination.PATIENCE_S,) * 2)
    page = ada.get(url).content.decode()
    assert "The model doctor was interrupted." in page
    assert 'http-equiv="refresh"' not in page
    assert 'value="examine"' in page


def test_a_doctor_that_ends_while_the_page_is_made_is_not_an_interrupted_one(ada, repository, monkeypatch):
    monkeypatch.setattr(examination, "_examine", lambda upload: None)
    url = send(ada)["Location"]

    def ends_just_then(upload):
        upload.report.write_text(json.dumps(GOOD))
        return examination.is_under_way(upload)

    monkeypatch.setattr("gateway_app.adminpages.uploadviews.is_under_way", ends_just_then)
    page = ada.get(url).content.decode()
    assert "The model doctor was interrupted." not in page
    assert "16 rows are the quickest" in page


def test_with_the_database_away_nothing_is_stored(ada, repository, doctor, monkeypatch):
    url = send(ada)["Location"]

    def away(**options):
        raise OperationalError("away")

    monkeypatch.setattr("gateway_app.adminpages.uploadviews.recorded", away)
    with pytest.raises(OperationalError):
        ada.post(url, {"action": "apply"})
    assert visible(repository) == []
    assert "It can be served" in ada.get(url).content.decode()


# --- in parts ---


def begin(client, size, name="text"):
    return client.post(FORM, {"name": name, "size": size})


def part(client, url, offset, content):
    return client.post(f"{url}?offset={offset}", content, content_type="application/octet-stream")


def test_a_large_file_comes_in_parts(ada, repository, doctor, settings):
    settings.MAX_BODY_BYTES = 4096
    assert 'data-part-bytes="4096"' in ada.get(FORM).content.decode()
    content = os.urandom(10_000)
    url = begin(ada, len(content)).json()["part_url"]
    for offset in range(0, len(content), 4096):
        answer = part(ada, url, offset, content[offset : offset + 4096])
        assert answer.json()["received"] == min(offset + 4096, len(content))
    url = answer.json()["url"]
    assert "It can be served" in ada.get(url).content.decode()
    ada.post(url, {"action": "apply"})
    assert (repository / "text/1/model.onnx").read_bytes() == content


def test_a_part_that_does_not_fit_is_refused_with_where_to_go_on(ada, repository, doctor):
    url = begin(ada, 10).json()["part_url"]
    assert part(ada, url, 0, b"12345").json() == {"received": 5}
    for offset in (0, 6, "x"):
        answer = part(ada, url, offset, b"12345")
        assert answer.status_code == 409
        assert answer.json()["received"] == 5
        assert "5 bytes have come" in answer.json()["error"]
    answer = part(ada, url, 5, b"123456")
    assert "More has come than the 10 bytes that were named" in answer.json()["error"]
    page = ada.get(url.removesuffix("part/")).content.decode()
    assert "5 of 10 bytes have come: upload it again." in page
    assert part(ada, url, 5, b"67890").json()["url"] == url.removesuffix("part/")


def test_what_cannot_be_begun_says_why(ada, repository, settings):
    settings.MAX_MODEL_MIB = 1
    answer = begin(ada, 2**20 + 1)
    assert answer.status_code == 400
    assert answer.json()["error"] == "The file is 1.0 MiB; choose one of up to 1 MiB, or raise MAX_MODEL_MIB."
    assert "cannot be a model's name" in begin(ada, 5, name="../x").json()["error"]
    page = send(ada, content=b"x" * (2**20 + 1)).content.decode()
    assert "or raise MAX_MODEL_MIB" in page
    assert "Choose an .onnx file." in ada.post(FORM, {"name": "text"}).content.decode()
    assert "The submitted file is empty" in send(ada, content=b"").content.decode()
    assert visible(repository) == []
    assert not (repository / ".uploads").exists()


def test_forms_are_guarded_against_other_sites(repository, doctor, django_user_model):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(django_user_model.objects.create_superuser("ada", password="a long enough one"))
    assert begin(client, 5).status_code == 403
    upload = uploads.begin(repository, "text", 5, 1)
    assert part(client, f"{FORM}{upload.token}/part/", 0, b"12345").status_code == 403
    token = client.get(FORM).context["csrf_token"]
    answer = client.post(
        f"{FORM}{upload.token}/part/?offset=0", b"12345", content_type="application/octet-stream",
        headers={"X-CSRFToken": str(token)},
    )  # fmt: skip
    assert answer.json()["received"] == 5


# --- files ---


def test_a_repository_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UploadError, match=r"file cannot be written \(Not a directory\)"):
        uploads.begin(tmp_path / "file", "text", 1, 1)
    upload = uploads.begin(tmp_path, "text", 1, 1)
    (tmp_path / "text").touch()
    upload.append(0, [b"x"])
    with pytest.raises(UploadError, match=r"text cannot be written \(File exists\)"):
        upload.publish()
    assert upload.file.exists()


def test_uploads_of_yesterday_are_forgotten(tmp_path):
    old, new = (uploads.begin(tmp_path, "text", 1, 1) for _ in range(2))
    long_ago = time.time() - uploads.FORGET_S - 1
    os.utime(old.folder, (long_ago, long_ago))
    uploads.begin(tmp_path, "text", 1, 1)
    assert uploads.find(tmp_path, old.token) is None
    assert uploads.find(tmp_path, new.token) == new
    for token in ("..", "x" * 32, new.token.upper(), f"{new.token}/version"):
        assert uploads.find(tmp_path, token) is None


def test_others_may_read_what_is_published(tmp_path):
    upload = uploads.begin(tmp_path, "text", 1, 1)
    upload.append(0, [b"x"])
    before = os.umask(0o022)
    os.umask(before)
    assert upload.publish() == "1"
    for path, mode in (
        (tmp_path / "text", 0o777),
        (tmp_path / "text/1", 0o777),
        (tmp_path / "text/1/model.onnx", 0o666),
    ):
        assert path.stat().st_mode & 0o777 == mode & ~before


@pytest.mark.parametrize(
    ("file", "record"), [("text.onnx", None), ("other.onnx", '{"name": "text"}'), ("text.onnx", "no record")]
)
def test_a_name_that_the_model_of_model_path_has_is_warned_of(
    ada, repository, doctor, settings, tmp_path, file, record
):
    settings.MODEL_PATH = tmp_path / file
    if record is not None:
        settings.MODEL_PATH.with_suffix(".json").write_text(record)
    warning = "MODEL_PATH has a model of the name text too, and that one is served, not this."
    assert warning in ada.get(send(ada, "text")["Location"]).content.decode()
    assert "MODEL_PATH has a model" not in ada.get(send(ada, "fresh")["Location"]).content.decode()
    settings.MODEL_PATH = None
    assert "MODEL_PATH has a model" not in ada.get(send(ada, "text")["Location"]).content.decode()
