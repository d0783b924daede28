"""The settings as a process of its own reads them: defaults, and for each bad value a sentence with the fix."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from inference_site import env
from tests.support.waiting import PATIENCE_S

PROJECT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from inference_site import settings
names = sys.argv[1:]
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""


def run(*arguments, **environment):
    """Runs Python in the project with nothing of this process's environment but these variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def read(*names, **environment):
    result = run("-c", PROGRAM, *names, **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def refusal(tmp_path, *command, **environment):
    """What manage.py says, in one line, when it cannot use these settings."""
    result = run("manage.py", *(command or ("check",)), **{"STATE_DIR": str(tmp_path), **environment})
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def test_the_defaults(tmp_path):
    found = read(
        *("INFERENCE_MODE", "MODEL_PATH", "DEBUG", "ALLOWED_HOSTS", "DATA_PLANE", "MAX_BODY_BYTES", "INFERENCE_TOKEN"),
        *(
            "MAX_IN_FLIGHT_BYTES",
            "APPEND_SLASH",
            "ROOT_URLCONF",
            "SECRET_KEY_IS_GENERATED",
            "ALLOWED_HOSTS_ARE_DEFAULT",
        ),
        *("MODEL_REPOSITORY", "MODEL_PATH_IS_DEFAULT", "MAX_MODEL_MIB", "GPU_MEM_LIMIT_MIB"),
        *("MODEL_CONTROL_TOKEN", "GRPC_PORT"),
        STATE_DIR=str(tmp_path),
    )
    assert found == {
        "INFERENCE_MODE": "gateway",
        "MODEL_PATH": str(PROJECT / "models" / "digits.onnx"),
        "DEBUG": False,
        "ALLOWED_HOSTS": ["localhost", "127.0.0.1", "[::1]"],
        "DATA_PLANE": "fast",
        "MAX_BODY_BYTES": 16 * 2**20,
        "MAX_IN_FLIGHT_BYTES": 512 * 2**20,
        "INFERENCE_TOKEN": "",
        "APPEND_SLASH": False,
        "ROOT_URLCONF": "inference_site.urls_gateway",
        "SECRET_KEY_IS_GENERATED": True,
        "ALLOWED_HOSTS_ARE_DEFAULT": True,
        "MODEL_REPOSITORY": None,
        "MODEL_PATH_IS_DEFAULT": True,
        "MAX_MODEL_MIB": 2048,
        "GPU_MEM_LIMIT_MIB": 0,
        "MODEL_CONTROL_TOKEN": "",
        "GRPC_PORT": 0,
    }


def test_every_variable_has_its_effect(tmp_path):
    found = read(
        *("ALLOWED_HOSTS", "SECRET_KEY", "DEBUG", "MODEL_PATH", "STATE_DIR", "DATA_PLANE", "MAX_BODY_BYTES"),
        *(
            "MAX_IN_FLIGHT_BYTES",
            "DATA_UPLOAD_MAX_MEMORY_SIZE",
            "INFERENCE_TOKEN",
            "CSRF_TRUSTED_ORIGINS",
            "SESSION_COOKIE_SECURE",
        ),
        *("MODEL_REPOSITORY", "MODEL_PATH_IS_DEFAULT", "MAX_MODEL_MIB", "GPU_MEM_LIMIT_MIB"),
        *("MODEL_CONTROL_TOKEN", "GRPC_PORT"),
        ALLOWED_HOSTS=" a.example , b.example,",
        SECRET_KEY="a secret of one's own",
        DEBUG="yes",
        MODEL_PATH="models/other.onnx",
        STATE_DIR=str(tmp_path),
        DATA_PLANE="django",
        MAX_BODY_BYTES="2048",
        MAX_IN_FLIGHT_BYTES="4096",
        INFERENCE_TOKEN="shared",
        CSRF_TRUSTED_ORIGINS="https://a.example",
        MODEL_REPOSITORY="../models",
        MAX_MODEL_MIB="7",
        GPU_MEM_LIMIT_MIB="512",
        MODEL_CONTROL_TOKEN="for operators",
        GRPC_PORT="8033",
    )
    assert found.pop("DATA_UPLOAD_MAX_MEMORY_SIZE") > 2048
    assert found == {
        "ALLOWED_HOSTS": ["a.example", "b.example"],
        "SECRET_KEY": "a secret of one's own",
        "DEBUG": True,
        "MODEL_PATH": str(PROJECT / "models" / "other.onnx"),
        "STATE_DIR": str(tmp_path),
        "DATA_PLANE": "django",
        "MAX_BODY_BYTES": 2048,
        "MAX_IN_FLIGHT_BYTES": 4096,
        "INFERENCE_TOKEN": "shared",
        "CSRF_TRUSTED_ORIGINS": ["https://a.example"],
        "SESSION_COOKIE_SECURE": True,
        "MODEL_REPOSITORY": str(PROJECT / "../models"),
        "MODEL_PATH_IS_DEFAULT": False,
        "MAX_MODEL_MIB": 7,
        "GPU_MEM_LIMIT_MIB": 512,
        "MODEL_CONTROL_TOKEN": "for operators",
        "GRPC_PORT": 8033,
    }
    assert list(tmp_path.iterdir()) == []  # with a key given, none is made


def test_with_a_repository_alone_the_bundled_model_is_not_served(tmp_path):
    environment = {"STATE_DIR": str(tmp_path), "MODEL_REPOSITORY": str(tmp_path)}
    assert read("MODEL_PATH", **environment) == {"MODEL_PATH": None}
    assert read("MODEL_PATH", **environment, MODEL_PATH="/x.onnx") == {"MODEL_PATH": "/x.onnx"}


def test_a_worker_loads_nothing_that_asks_for_a_database_and_keeps_no_secret(tmp_path):
    found = read("INSTALLED_APPS", "MIDDLEWARE", INFERENCE_MODE="worker", STATE_DIR=str(tmp_path / "x"))
    with_tables = {"django.contrib.auth", "django.contrib.admin", "django.contrib.sessions", "gateway_app"}
    assert not with_tables & set(found["INSTALLED_APPS"])
    assert not [name for name in found["MIDDLEWARE"] if "Session" in name or "Auth" in name]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("INFERENCE_MODE", "cloud", "gateway, worker"),
        ("DATA_PLANE", "quick", "fast, django"),
        ("DEBUG", "maybe", "1 or 0"),
        ("MAX_BODY_BYTES", "16MB", "whole number from 1024 to"),
        ("MAX_BODY_BYTES", "12", "whole number from 1024 to"),
        ("MAX_IN_FLIGHT_BYTES", "16777215", "whole number from 16777216 to"),
        ("MAX_MODEL_MIB", "0", "whole number from 1 to"),
        ("GPU_MEM_LIMIT_MIB", "-1", "whole number from 0 to"),
        ("GRPC_PORT", "65536", "whole number from 0 to 65535"),
        ("CSRF_TRUSTED_ORIGINS", "a.example", "https://a.example"),
        ("DATABASE_URL", "mysql://h/x", "sqlite:///"),
        ("LOG_LEVEL", "verbose", "INFO, WARNING, ERROR"),
    ],
)
def test_a_bad_value_stops_every_command_with_one_sentence(tmp_path, name, value, fix):
    said = refusal(tmp_path, **{name: value})
    assert said.startswith(f"Wrong setting: {name}")
    assert fix in said
    assert "\n" not in said


def test_manage_py_makes_a_worker_of_runnode_and_a_gateway_of_all_else(tmp_path):
    program = "import manage, os, sys\nsys.argv = ['manage.py', *sys.argv[1:]]\nmanage.main()"
    show = "import os; import atexit; atexit.register(lambda: print('mode', os.environ['INFERENCE_MODE']))\n"
    for command, environment, mode in (
        ("runnode", {}, "worker"),
        ("rungateway", {}, "gateway"),
        ("migrate", {}, "gateway"),
        ("runnode", {"INFERENCE_MODE": "gateway"}, "gateway"),
        ("migrate", {"INFERENCE_MODE": "worker"}, "worker"),
    ):
        result = run("-c", show + program, command, "--help", STATE_DIR=str(tmp_path), **environment)
        assert result.stdout.strip().endswith(f"mode {mode}"), (command, result)


async def test_the_admins_styles_are_served_through_asgi_without_collectstatic(async_client):
    for name in ("admin/css/base.css", "rest_framework/css/bootstrap.min.css"):
        response = await async_client.get(f"/static/{name}")
        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/css")
        assert len(b"".join([part async for part in response])) > 1000


@pytest.mark.parametrize(
    ("level", "written"), [("", ["info", "warning", "error"]), ("WARNING", ["warning", "error"]), ("ERROR", ["error"])]
)
def test_the_level_of_the_log_is_a_setting(tmp_path, level, written):
    program = (
        "import django, logging; django.setup()\n"
        "for name in ('gateway_app.gateway', 'django', 'uvicorn'):\n"
        "    log = logging.getLogger(name); log.info('info'); log.warning('warning'); log.error('error')"
    )
    env = {"DJANGO_SETTINGS_MODULE": "inference_site.settings", "STATE_DIR": str(tmp_path), "LOG_LEVEL": level}
    said = run("-c", program, **env).stderr.splitlines()
    assert [line.split()[-1] for line in said] == written * 3


def test_without_django_manage_py_says_make_run():
    result = run("-I", "-S", "manage.py", "check")
    assert result.returncode == 1
    assert "make run" in result.stderr
    assert "Traceback" not in result.stderr


def test_processes_that_start_at_once_share_one_generated_key_that_only_the_owner_reads(tmp_path):
    state = tmp_path / "new" / "var"
    program = "import sys; sys.stdin.read(); from inference_site import settings; print(settings.SECRET_KEY)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], "STATE_DIR": str(state)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.close()  # go
        process.stdin = None
    keys = {process.communicate(timeout=PATIENCE_S)[0].strip() for process in processes}
    assert len(keys) == 1
    assert len(keys.pop()) > 50
    assert [file.name for file in state.iterdir()] == ["secret_key"]
    assert stat.S_IMODE((state / "secret_key").stat().st_mode) == 0o600


def test_a_key_that_another_process_made_meanwhile_counts(tmp_path, monkeypatch):
    file = tmp_path / "secret_key"

    def slow(size):
        file.write_text("made by the other process, long enough")
        return "made by this one"

    monkeypatch.setattr("inference_site.env.secrets.token_urlsafe", slow)
    assert env.kept_secret(file) == "made by the other process, long enough"


def test_a_key_that_cannot_be_kept_or_used_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    assert "Set STATE_DIR to a directory that this user may write" in refusal(
        tmp_path, STATE_DIR=str(tmp_path / "file")
    )
    (tmp_path / "secret_key").write_text("short")
    assert "Delete it" in refusal(tmp_path)


# --- DATABASE_URL ---


def parsed(monkeypatch, url):
    monkeypatch.setenv("DATABASE_URL", url)
    return env.database("DATABASE_URL", "sqlite:///db.sqlite3", base=Path("/project"))


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("", "/project/db.sqlite3"),
        ("sqlite:///data/x.sqlite3", "/project/data/x.sqlite3"),
        ("sqlite:////var/lib/x.sqlite3", "/var/lib/x.sqlite3"),
        ("sqlite:///with%20blank.sqlite3", "/project/with blank.sqlite3"),
    ],
)
def test_sqlite_urls(monkeypatch, url, file):
    found = parsed(monkeypatch, url)
    assert found["NAME"] == file
    assert found["CONN_MAX_AGE"] == 0
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert found["OPTIONS"]["timeout"] == 5
    assert "journal_mode=WAL" in found["OPTIONS"]["init_command"]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_postgres_urls(monkeypatch, scheme):
    found = parsed(monkeypatch, f"{scheme}://me%40x:p%2Fw@db.example:6543/inference?sslmode=require")
    assert found == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "inference",
        "USER": "me@x",
        "PASSWORD": "p/w",
        "HOST": "db.example",
        "PORT": "6543",
        "OPTIONS": {"connect_timeout": "5", "sslmode": "require"},
        "CONN_MAX_AGE": 0,
    }
    assert parsed(monkeypatch, f"{scheme}:///inference")["HOST"] == ""
    assert parsed(monkeypatch, f"{scheme}://[::1]/inference")["HOST"] == "::1"


@pytest.mark.parametrize(
    "url",
    [
        "db.sqlite3",
        "sqlite://db.sqlite3",
        "sqlite:///",
        "sqlite:///x?mode=ro",
        "postgres://u:verysecret@h",
        "postgres://u:verysecret@h:port/x",
        "postgres://u:verysecret@h/x/y",
        "postgres://u:very[secret@h/x",
        "oracle://u:verysecret@h/x",
    ],
)
def test_an_url_that_cannot_be_used_is_refused_without_its_password(monkeypatch, url):
    with pytest.raises(ImproperlyConfigured) as caught:
        parsed(monkeypatch, url)
    assert str(caught.value).startswith("DATABASE_URL")
    assert "postgres://user:password@host:5432/name" in str(caught.value)
    assert "secret" not in str(caught.value)
