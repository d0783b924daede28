"""The gateway's numbers of each model, served or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway_app.catalog import not_in_force
from inference_site.lib.catalog import ModelInfo, State

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway
    from gateway_app.served import ServedModel


def model_rows(gateway: Gateway) -> list[dict[str, Any]]:
    """One row per version of each model that a worker has spoken of, by name and version."""
    return [_row(gateway, info, gateway.lineup.served.get((info.name, info.version))) for info in gateway.models()]


def _row(gateway: Gateway, info: ModelInfo, model: ServedModel | None) -> dict[str, Any]:
    p50, p99 = model.inference.latency.quantiles_ms(0.5, 0.99) if model is not None else (None, None)
    totals = model.totals() if model is not None else None
    return {
        "name": info.name,
        "version": info.version,
        "state": info.state,
        "reason": info.reason,
        "default": model is not None and model is gateway.lineup.default,
        "newest": gateway.lineup.catalog.newest.get(info.name) == info.version,
        "digest": info.digest,
        "workers": _workers(gateway, info, model),
        "requests": totals.requests if totals is not None else 0,
        "errors": totals.errors if totals is not None else 0,
        "client_errors": totals.client_errors if totals is not None else 0,
        "hot_hits": totals.hot_hits if totals is not None else 0,
        "joined": totals.joined if totals is not None else 0,
        "in_flight": model.in_flight if model is not None else 0,
        "requests_per_s": round(model.rate.per_second(), 1) if model is not None else 0.0,
        "p50_ms": p50,
        "p99_ms": p99,
        "batches": info.batches,
        "max_batch_size": info.max_batch_size,
        "cached": info.cached,
        "provider": info.provider,
    }


def _workers(gateway: Gateway, info: ModelInfo, model: ServedModel | None) -> list[dict[str, Any]]:
    """What each connected worker says of the version; the number is the one that it is asked under, 0: it is not."""
    rows = []
    for worker, said in sorted(gateway.lineup.catalog.said(info.name).items()):
        of_version = [each for each in said if each.version == info.version]
        route = model.router.routes.get(worker) if model is not None else None
        number = route.number if route is not None and route.up else 0
        if of_version:
            # What is not as it should be says more than that another file of the version is ready.
            shown = min(of_version, key=lambda each: (each.state is State.READY, each.number != number))
            state, reason = shown.state, shown.reason
            if number and state is State.UNAVAILABLE:  # it answers all the same
                state, reason = State.READY, not_in_force(reason or "no reason given")
            rows.append({"name": worker, "state": state, "reason": reason, "number": number})
    return rows
