"""What a process imports when it starts: each restart waits for it, and so does each test that starts one."""

import os
import subprocess
import sys

import pytest
from daphne.management.commands.runserver import Command as DaphnesRunserver
from django.core.management import get_commands, load_command_class

from inference_site.apps import hidden
from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE_S

# All that a gateway or a worker has imported when it begins to serve, and which of them it has no use for.
START = """
import sys
from importlib import import_module
import django
django.setup()
from django.conf import settings
import_module(settings.ROOT_URLCONF)
import inference_site.asgi, inference_site.server
if settings.IS_GATEWAY:
    import gateway_app.gateway, gateway_app.management.commands.rungateway
else:
    import worker_app.direct, worker_app.service, worker_app.management.commands.runnode
print(*sorted({"twisted", "autobahn", "psycopg", "requests", "grpc", "onnxruntime"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(("mode", "heavy"), [("gateway", ""), ("worker", "onnxruntime")])
def test_a_process_imports_what_it_needs_alone(mode: str, heavy: str) -> None:
    environment = {**os.environ, "INFERENCE_MODE": mode, "DJANGO_SETTINGS_MODULE": "inference_site.settings"}
    done = subprocess.run(
        [sys.executable, "-c", START],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, heavy), done.stderr


def test_runserver_is_daphnes() -> None:
    assert isinstance(load_command_class(get_commands()["runserver"], "runserver"), DaphnesRunserver)


def test_what_is_hidden_can_be_imported_afterwards() -> None:
    for name in ("this", "colorsys"):
        sys.modules.pop(name, None)
    with hidden(("colorsys", "os")):
        import os as still_there

        with pytest.raises(ImportError):
            import colorsys
    import colorsys

    assert still_there is os
    assert colorsys.__name__ == "colorsys"
