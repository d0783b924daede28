"""The last word: a worker's own engine takes the model with the proposed settings, and answers itself."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inference_site.lib.record import Record
from worker_app.doctor.report import Chart
from worker_app.engine import Engine, EngineError, ModelError
from worker_app.providers import cores


def try_in(chart: Chart, path: Path) -> None:
    """Loads it as a worker does, with what is proposed over what its record says; `runs` is False if that fails."""
    record = msgspec.convert(chart.proposed, Record).over(chart.record)
    try:
        engine = Engine(path, record, name=chart.name, version="1", threads=cores())
    except ModelError as error:
        chart.runs = False
        chart.bad("engine", f"a worker refuses it: {error}", "correct its record, or export the model again")
        return
    result = engine.run([engine.read(engine.probe)]).results[0]
    if isinstance(result, EngineError):
        chart.runs = False
        chart.bad("engine", f"a worker fails on it: {result}", "export the model again")
    else:
        chart.good("engine", "a worker takes it with these settings")
