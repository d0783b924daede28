"""The Open Inference Protocol (V2) over HTTP: every call, against a plane. No page, no database."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from inference_site.exchange import Answer, Plane, Ticket
from inference_site.lib.asks import Bytes
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.errors import ApiError, a_bug
from inference_site.v2 import documents
from inference_site.v2.askers import Change, InferAsker, Packing, WrongVerb, refuse
from inference_site.v2.head import Asked
from inference_site.v2.ready import ready_models
from inference_site.v2.request import id_of, read_request
from inference_site.v2.target import What

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class _Json(msgspec.Struct):
    """Members that are heeded in the bodies of repository calls."""

    parameters: dict[str, msgspec.Raw] = {}
    ready: bool = False


_decode_json = msgspec.json.Decoder(_Json).decode


class Rest:
    """Answers requests at /v2 and below it, on the plane's loop."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def serve(
        self,
        asked: Asked,
        body: Sequence[Bytes],
        answer: Answer,
        timeout_ms: int | None = None,
        since: float | None = None,
    ) -> Ticket | None:
        """Calls `answer` exactly once, unless the ticket is cancelled; None: it has been called already. The rest is as
        for Plane.infer."""
        try:
            if asked.infers:
                return self._infer(asked, body, answer, timeout_ms, since)
            return self._call(asked, body, answer)
        except ApiError as error:
            refuse(answer, error)
        except Exception:
            logger.exception("%s %s could not be answered", asked.method, asked.path)
            refuse(answer, a_bug())
        return None

    def _call(self, asked: Asked, body: Sequence[Bytes], answer: Answer) -> Ticket | None:
        _check_verb(asked)
        if asked.target.what in (What.LOAD, What.UNLOAD):
            return self._change(asked, body, answer)
        answer(200, b"", _encode(self._document(asked, body)))
        return None

    def _infer(
        self, asked: Asked, body: Sequence[Bytes], answer: Answer, timeout_ms: int | None, since: float | None
    ) -> Ticket | None:
        _, name, version = asked.target
        try:
            served = self.plane.find(name, version)
            ident, ask, limit_ms = read_request(body, asked.header_length)
        except ApiError as error:
            self.plane.refused()
            refuse(answer, error, id_of(body, asked.header_length))
            return None
        if limit_ms is not None:
            timeout_ms = limit_ms if timeout_ms is None else min(limit_ms, timeout_ms)
        if asked.accepts:
            packing = Packing(answer, asked.accepts)
            return packing.follow(served.ask(ask, InferAsker(packing.answer, served.info, ident), timeout_ms, since))
        return served.ask(ask, InferAsker(answer, served.info, ident), timeout_ms, since)

    def _document(self, asked: Asked, body: Sequence[Bytes]) -> Any:
        what, name, version = asked.target
        if what is What.SERVER:
            return documents.server()
        if what is What.LIVE:
            return {"live": True}
        if what is What.READY:
            self._check_ready()
            return {"ready": True}
        if what is What.INDEX:
            return documents.index(self.plane.models(), _read_json(body).ready)
        if what is What.STATS and name is None:
            return {"model_stats": [self._statistics(each) for each in ready_models(self.plane)]}
        info = self.plane.find(name, version).info
        if what is What.MODEL_READY:
            self._check_stays()
            return {"name": info.name, "ready": True}
        if what is What.CONFIG:
            return documents.config(info)
        if what is What.STATS:
            versions = ready_models(self.plane, info.name) if version is None else [info]
            return {"model_stats": [self._statistics(each) for each in versions]}
        return documents.metadata(info, [each.version for each in ready_models(self.plane, info.name)])

    def _statistics(self, info: ModelInfo) -> dict[str, Any]:
        return documents.model_statistics(info, self.plane.statistics(info.name, info.version))

    def _check_stays(self) -> None:
        if self.plane.draining:
            raise ApiError(503, "not_ready", "this process is draining; ask another", retry_after_s=1)

    def _check_ready(self) -> None:
        self._check_stays()
        if not ready_models(self.plane):
            raise ApiError(503, "not_ready", "no model is ready; POST v2/repository/index says why", retry_after_s=1)

    def _change(self, asked: Asked, body: Sequence[Bytes], answer: Answer) -> Ticket:
        what, name, _ = asked.target
        assert name is not None
        if asked.forbidden is not None:
            raise asked.forbidden
        if what is What.LOAD:
            for key in _read_json(body).parameters:
                if key == "config" or key.startswith("file:"):
                    message = f"parameters.{key[:40]} can't override a file; change the model's record in the admin"
                    raise ApiError(400, "not_supported", message)
        return Change(answer, self.plane.load(name) if what is What.LOAD else self.plane.unload(name))


def _check_verb(asked: Asked) -> None:
    what = asked.target.what
    if what is What.UNSUPPORTED:
        message = f"{asked.path} is of an extension that is not served here; GET /v2 lists those that are"
        raise ApiError(404, "not_supported", message)
    if what is What.NOTHING:
        message = f"there is nothing at {asked.path}; an inference is POST /v2/models/<name>/infer"
        raise ApiError(404, "not_found", message)
    if asked.method != what.verb and not (asked.method == "HEAD" and what.verb == "GET"):
        raise WrongVerb(asked.method, asked.path, what.verb)


def _read_json(body: Sequence[Bytes]) -> _Json:
    text = b"".join(body)
    if not text.strip():
        return _Json()
    try:
        return _decode_json(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the body can't be read: {str(error)[:200]}; send a JSON object, or nothing"
        raise ApiError(400, "invalid_body", message) from None
