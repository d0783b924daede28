"""A model uploaded by a person with a browser: in parts, looked at by the doctor, applied with one click."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway_app.adminpages import examination
from gateway_app.models import ModelRecord
from tests.support.axe import assert_sound
from tests.support.chromium import Browser

REPORT = {
    "ok": True,
    "findings": [{"name": "file", "ok": True, "detail": "loads in 5 ms", "fix": ""}],
    "proposed": {"batch_size": 16},
    "reasons": {"batch_size": "the best rate"},
}


@pytest.fixture
def repository(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = f"print({json.dumps(REPORT)!r})"
    monkeypatch.setattr(examination, "doctor", lambda file: [sys.executable, "-c", program])
    settings.MODEL_REPOSITORY = tmp_path
    settings.MAX_BODY_BYTES = 64 * 1024  # so that a small file has several parts
    return tmp_path


@pytest.fixture
def admin(admin_url: str) -> str:
    """The list of models, where the browser is logged in."""
    return f"{admin_url}/modelrecord/"


def choose(browser: Browser, name: str, file: Path) -> None:
    browser.driver.find_element("name", "name").send_keys(name)
    browser.driver.find_element("name", "file").send_keys(str(file))
    browser.driver.find_element("css selector", "#upload [type=submit]").click()


def test_a_model_is_uploaded_in_parts_and_applied(
    browser: Browser, admin: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("download") / "text.onnx"
    file.write_bytes(os.urandom(200_000))
    browser.open(admin, clock_stands=False)  # a part that is lost is sent again after a while
    browser.driver.find_element("css selector", "a[href$='/upload/']").click()
    browser.wait_for(lambda: browser.has("#upload [type=submit]"), "the form is there")
    assert_sound(browser)
    browser.console_errors()  # axe looks for imported style sheets in the wrong place
    choose(browser, "text", file)
    browser.wait_for(lambda: browser.shows("#proposed"), "the doctor has looked")
    assert "the best rate" in browser.text("#proposed")
    assert browser.console_errors() == []
    assert_sound(browser)
    browser.console_errors()
    browser.driver.find_element("css selector", "[value=apply]").click()
    browser.wait_for(lambda: browser.shows(".messagelist"), "it has been applied")
    assert "Version 1 of text is stored" in browser.text(".messagelist")
    assert (repository / "text" / "1" / "model.onnx").read_bytes() == file.read_bytes()
    assert ModelRecord.objects.get().batch_size == 16
    assert browser.console_errors() == []


def test_what_is_refused_is_said_on_the_form(
    browser: Browser, admin: str, repository: Path, settings: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings.MAX_MODEL_MIB = 1
    file = tmp_path_factory.mktemp("download") / "text.onnx"
    file.write_bytes(bytes(2**20 + 1))
    browser.open(f"{admin}upload/", clock_stands=False)
    choose(browser, "text", file)
    browser.wait_for(lambda: browser.shows("#upload-error"), "the refusal is shown")
    assert "or raise MAX_MODEL_MIB" in browser.text("#upload-error")
    assert browser.evaluate("document.querySelector('#upload [type=submit]').disabled") is False
