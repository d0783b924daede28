"""A model that an operator uploads: examined, applied, loaded by every worker, and answering; the next version too."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.adminsite import AdminSite
from tests.support import onnx_models
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.oracle import Oracle
from tests.support.processes import wait_until


def is_served(cluster: Cluster, version: str) -> bool:
    """Whether each worker is asked for that version."""
    found = [each for each in cluster.stats()["models"] if (each["name"], each["version"]) == ("small", version)]
    return bool(found) and sum(worker["number"] > 0 for worker in found[0]["workers"]) == len(cluster.names)


def uploaded(admin: AdminSite, name: str, file: Path) -> str:
    """What follows once the doctor has looked and the button has been pressed."""
    url = admin.upload(name, file)
    wait_until("the doctor has looked", lambda: "The model doctor looks at it" not in admin.page(url), timeout_s=150.0)
    assert "It can be served" in admin.page(url)
    return admin.press(url, "apply")


def test_an_uploaded_model_is_served_and_its_next_version_follows(make_cluster, tmp_path):
    repository = tmp_path / "models"
    repository.mkdir()
    running = make_cluster(workers=2, arguments=["--repository", str(repository)])
    admin = AdminSite(running.gateway_url, "admin", running.password)
    try:
        for number, width in (("1", 16), ("2", 32)):
            file = onnx_models.mlp(tmp_path / f"{number}.onnx", (8, width, 4))
            page = uploaded(admin, "small", file)
            assert f"Version {number} of small is stored" in page
            assert (repository / "small" / number / "model.onnx").read_bytes() == file.read_bytes()
            wait_until(f"version {number} is served", partial(is_served, running, number))
            body = {"request_id": "r", "model": "small", "input_data": [1.0] * 8}
            status, answer = request("POST", f"{running.gateway_url}/infer", json.dumps(body).encode())
            assert status == 200
            assert json.loads(answer)["output_data"] == pytest.approx(Oracle(file).answers([[1.0] * 8])[0], rel=1e-5)
        # The file of a bad upload is looked at, and nothing more.
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(file.read_bytes()[:100])
        url = admin.upload("small", broken)
        wait_until("the doctor has looked", lambda: "The model doctor looks at it" not in admin.page(url), 150.0)
        page = admin.page(url)
        assert "It cannot be served" in page
        assert 'value="apply"' not in page
        assert "is gone; nothing has changed" in admin.press(url, "discard")
        assert sorted(path.name for path in (repository / "small").iterdir()) == ["1", "2"]
        ready = "version 2: READY (worker_1, worker_2)"
        wait_until("the list says so", lambda: ready in admin.page("/admin/gateway_app/modelrecord/"))
    finally:
        admin.close()
