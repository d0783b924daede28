"""The hot path's protocol in front of a plane whose models give their inputs back."""

from __future__ import annotations

from typing import Any

from inference_site.lib.catalog import State
from inference_site.lib.datatypes import NUMPY
from tests.support.hot_server import HotServer
from tests.support.v2_plane import V2Plane, model


class V2Server(HotServer):
    """Serves a model of each datatype, by its name in lower case, one of two versions, and a broken one."""

    def __init__(
        self, max_body_bytes: int = 16 * 2**20, max_in_flight_bytes: int = 512 * 2**20, app: Any = None
    ) -> None:
        self.v2 = V2Plane(
            infos=[
                model("pair", "1", ["FP32", "INT64"]),
                model("pair", "2", ["FP32", "INT64"]),
                *(model(kind.lower(), "1", [kind]) for kind in NUMPY),
                model("with space ü", "1", ["FP32"]),
                model("broken", "3", [], state=State.UNAVAILABLE, reason="no such operator"),
            ]
        )
        super().__init__(max_body_bytes, max_in_flight_bytes, app, self.v2)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"
