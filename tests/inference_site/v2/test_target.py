"""Paths of V2."""

import tomllib
from pathlib import Path

import pytest

from inference_site.v2 import documents
from inference_site.v2.target import Target, What, is_v2, target_of


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v2", Target(What.SERVER)),
        ("/v2?x=/models/m", Target(What.SERVER)),
        ("/v2/health/live", Target(What.LIVE)),
        ("/v2/health/ready", Target(What.READY)),
        ("/v2/models/stats", Target(What.STATS)),
        ("/v2/models/m", Target(What.MODEL, "m")),
        ("/v2/models/m?x", Target(What.MODEL, "m")),
        ("/v2/models/m/versions/1", Target(What.MODEL, "m", "1")),
        ("/v2/models/m/ready", Target(What.MODEL_READY, "m")),
        ("/v2/models/m/versions/1/ready", Target(What.MODEL_READY, "m", "1")),
        ("/v2/models/m/config", Target(What.CONFIG, "m")),
        ("/v2/models/m/stats", Target(What.STATS, "m")),
        ("/v2/models/m/versions/12/stats", Target(What.STATS, "m", "12")),
        ("/v2/models/m/infer", Target(What.INFER, "m")),
        ("/v2/models/m/versions/1/infer", Target(What.INFER, "m", "1")),
        ("/v2/models/a%20b%C3%BC/infer", Target(What.INFER, "a bü")),
        ("/v2/models/a%2Fb/infer", Target(What.INFER, "a/b")),
        ("/v2/models/versions/versions/versions/infer", Target(What.INFER, "versions", "versions")),
        ("/v2/models/infer/infer", Target(What.INFER, "infer")),
        ("/v2/repository/index", Target(What.INDEX)),
        ("/v2/repository/models/m/load", Target(What.LOAD, "m")),
        ("/v2/repository/models/m/unload", Target(What.UNLOAD, "m")),
        ("/v2/models/m/trace/setting", Target(What.UNSUPPORTED, "m")),
        ("/v2/models/m/generate", Target(What.UNSUPPORTED, "m")),
        ("/v2/trace/setting", Target(What.UNSUPPORTED)),
        ("/v2/logging", Target(What.UNSUPPORTED)),
        ("/v2/systemsharedmemory/region/x/register", Target(What.UNSUPPORTED)),
        ("/v2/cudasharedmemory/status", Target(What.UNSUPPORTED)),
        ("/v2/", Target(What.NOTHING)),
        ("/v2/models", Target(What.NOTHING)),
        ("/v2/models/", Target(What.NOTHING)),
        ("/v2/models/m/", Target(What.NOTHING, "m")),
        ("/v2/models//infer", Target(What.NOTHING)),
        ("/v2/models/m/versions//infer", Target(What.NOTHING, "m")),
        ("/v2/health/live/", Target(What.NOTHING)),
        ("/v2/repository/models//load", Target(What.NOTHING)),
    ],
)
def test_what_a_path_asks_for(path: str, target: Target) -> None:
    assert is_v2(path.encode())
    assert target_of(path) == target


def test_paths_that_are_no_part_of_it() -> None:
    for url in (b"/v20", b"/v1", b"/", b"", b"/infer", b"v2", b"//v2", b"/V2"):
        assert not is_v2(url)


def test_the_servers_version_is_the_projects() -> None:
    project = tomllib.loads((Path(documents.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == (documents.NAME, documents.VERSION)
