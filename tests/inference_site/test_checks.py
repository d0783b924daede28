"""What is wrong with an installation is said before it serves."""

import logging
import os

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from inference_site.checks import is_loopback, require_public_settings


def test_a_missing_model_is_an_error_with_id_path_and_hint(settings, tmp_path):
    settings.MODEL_PATH = tmp_path / "absent.onnx"
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    said = str(caught.value)
    assert "inference.E001" in said
    assert str(tmp_path / "absent.onnx") in said
    assert "Set MODEL_PATH to an .onnx file" in said


def test_a_model_that_is_there_passes(settings, tmp_path):
    settings.MODEL_PATH = tmp_path / "model.onnx"
    settings.MODEL_PATH.touch()
    call_command("check")


def test_without_a_model_file_to_serve_none_is_looked_for(settings):
    settings.MODEL_PATH = None
    call_command("check")


@pytest.mark.parametrize("kind", ["absent", "a file", "not to be read"])
def test_a_repository_that_cannot_be_read_is_an_error_with_id_path_and_hint(settings, tmp_path, kind):
    settings.MODEL_REPOSITORY = tmp_path / "models"
    if kind == "a file":
        settings.MODEL_REPOSITORY.touch()
    elif kind == "not to be read":
        settings.MODEL_REPOSITORY.mkdir(mode=0)
        if os.access(settings.MODEL_REPOSITORY, os.R_OK):
            pytest.skip("this user may read everything")
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    said = str(caught.value)
    assert "inference.E002" in said
    assert str(tmp_path / "models") in said
    assert "NAME/1/model.onnx" in said


def test_a_repository_may_be_empty(settings, tmp_path):
    settings.MODEL_REPOSITORY = tmp_path
    call_command("check")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.3.4.5", "::1", "[::1]"])
def test_loopback_needs_nothing(settings, host):
    settings.SECRET_KEY_IS_GENERATED = settings.ALLOWED_HOSTS_ARE_DEFAULT = True
    require_public_settings(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "", "10.0.0.1", "gateway.example", "localhost.example"])
def test_beyond_it_a_gateway_needs_a_key_and_its_names(settings, host):
    assert not is_loopback(host)
    settings.SECRET_KEY_IS_GENERATED = settings.ALLOWED_HOSTS_ARE_DEFAULT = True
    with pytest.raises(ImproperlyConfigured) as caught:
        require_public_settings(host)
    assert "SECRET_KEY" in str(caught.value)
    assert "ALLOWED_HOSTS" in str(caught.value)
    settings.SECRET_KEY_IS_GENERATED = False
    with pytest.raises(ImproperlyConfigured) as caught:
        require_public_settings(host)
    assert "SECRET_KEY" not in str(caught.value)
    settings.ALLOWED_HOSTS_ARE_DEFAULT = False
    require_public_settings(host)


def test_a_worker_needs_neither(settings):
    settings.IS_GATEWAY = False
    settings.SECRET_KEY_IS_GENERATED = settings.ALLOWED_HOSTS_ARE_DEFAULT = True
    require_public_settings("0.0.0.0")


def test_a_missing_token_is_a_warning_beyond_this_machine_only(settings, caplog):
    settings.SECRET_KEY_IS_GENERATED = settings.ALLOWED_HOSTS_ARE_DEFAULT = False
    settings.INFERENCE_TOKEN = ""
    with caplog.at_level(logging.WARNING):
        require_public_settings("127.0.0.1")
        assert caplog.text == ""
        require_public_settings("0.0.0.0")
        assert "INFERENCE_TOKEN" in caplog.text
        caplog.clear()
        settings.INFERENCE_TOKEN = "shared"
        require_public_settings("0.0.0.0")
        assert caplog.text == ""


def deployed(capsys: pytest.CaptureFixture[str]) -> str:
    call_command("check", "--deploy")
    return "".join(capsys.readouterr())


def test_who_deploys_without_tls_is_told_what_to_set(settings, capsys):
    said = deployed(capsys)
    assert "inference.W001" in said
    assert "CSRF_TRUSTED_ORIGINS" in said
    assert "docs/nginx.conf" in said
    assert "security.W004" not in said  # these name settings that are no environment variables
    settings.IS_BEHIND_TLS = True
    settings.CSRF_TRUSTED_ORIGINS = ["https://localhost"]
    assert "inference.W001" not in deployed(capsys)


@pytest.mark.parametrize(
    ("origin", "hosts", "fits"),
    [
        ("https://a.example", ["a.example"], True),
        ("https://a.example:8443", ["localhost", "a.example"], True),
        ("https://A.Example", ["a.example"], True),
        ("https://a.example", [".example"], True),
        ("https://*.a.example", [".a.example"], True),
        ("https://a.example", ["*"], True),
        ("https://a.example", ["localhost", "127.0.0.1"], False),
        ("https://*.a.example", ["b.a.example"], False),
    ],
)
def test_an_origin_that_is_no_allowed_host_is_said(settings, capsys, origin, hosts, fits):
    settings.CSRF_TRUSTED_ORIGINS, settings.ALLOWED_HOSTS = [origin], hosts
    call_command("check")
    said = "".join(capsys.readouterr())
    assert ("inference.W002" in said) == (not fits)
    if not fits:
        assert origin in said
        assert "to ALLOWED_HOSTS" in said
