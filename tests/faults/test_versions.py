"""Row 26: a new version of a model is loaded while clients ask for it."""

import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.faults.figures import FULL, Figures, scaled
from tests.support import v2
from tests.support.cluster import Cluster
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.repository import broken, marked, publish
from tests.support.unhurried import unhurry
from tests.support.v2 import MarkedCase, Marks

FORMS = ("flat", "named", "json", "binary")
# The one is quick; a run of the other takes some ms, so that most of what asks the same joins.
WORK = {"quick": 0, "slow": 600}


def values(rng: random.Random) -> tuple[float, ...]:
    return tuple(rng.randint(-4000, 4000) / 16 for _ in range(4))


def quick_cases(marks: Marks) -> list[MarkedCase]:
    """A third are few enough for the gateway's own cache, a third for the workers', and a third are new."""
    rng = random.Random(1)
    hot, cached = [values(rng) for _ in range(5)], [values(rng) for _ in range(300)]
    found = [rng.choice((rng.choice(hot), rng.choice(cached), values(rng))) for _ in range(20_000)]
    return [MarkedCase("quick", each, FORMS[number % 4], marks) for number, each in enumerate(found)]


def slow_cases(marks: Marks) -> list[MarkedCase]:
    """Each is asked for ten times in a row, in one form."""
    rng = random.Random(2)
    found = [(values(rng), FORMS[number % 4]) for number in range(2_000)]
    return [MarkedCase("slow", each, form, marks) for each, form in found for _ in range(10)]


@pytest.mark.row(26)
def test_a_new_version_under_load(tmp_path: Path, figures: Figures) -> None:
    repository = tmp_path / "models"
    for name, work in WORK.items():
        publish(repository, name, 1, marked(1, work))
    marks = {name: Marks({1}) for name in WORK}
    switches = int(scaled(2, 30))
    loaded: dict[str, list[float]] = {name: [0.0] for name in WORK}  # when the load of each version had ended
    with Cluster(tmp_path / "cluster", arguments=("--repository", str(repository))) as cluster:
        if not FULL:
            unhurry(cluster)
        with (
            OpenLoad(cluster.gateway_url, quick_cases(marks["quick"]), rate=scaled(150, 400)) as quick,
            OpenLoad(cluster.gateway_url, slow_cases(marks["slow"]), rate=scaled(50, 100)) as slow,
        ):
            for version in range(2, switches + 2):
                for load in (quick, slow):
                    load.wait_for(int(scaled(50, 200)))
                for name, work in WORK.items():
                    if version % 3 == 0:
                        publish(repository, name, version, broken)
                        status, answer = v2.load(cluster.gateway_url, name)
                        assert (status, name in answer["error"]) == (400, True), answer
                    marks[name].allowed.add(version)
                    publish(repository, name, version, marked(version, work))
                    status, answer = v2.load(cluster.gateway_url, name)
                    assert status == 200, answer
                    loaded[name].append(time.monotonic())
            for load in (quick, slow):
                load.wait_for(100)
        stats = cluster.stats()
        for url in cluster.worker_urls.values():
            wait_until("the workers have let go of old versions", partial(has_one_of_each, url, switches + 1))
        cluster.stop()
    answers = 0
    for name, load in (("quick", quick), ("slow", slow)):
        load.report.assert_no_failure()
        assert_none_is_old(load, marks[name], loaded[name])
        answers += len(load.report.answers)
    models = {each["name"]: each for each in stats["models"]}
    assert models["quick"]["hot_hits"] > 0
    assert models["slow"]["joined"] > 0
    slowest = max(each.latency_s for load in (quick, slow) for each in load.report.answers)
    figures.say(
        f"{2 * switches} switches, {2 * sum(n % 3 == 0 for n in range(2, switches + 2))} broken files refused",
        f"0 failed and 0 old of {answers:,}",
        f"slowest answer {slowest:.2f} s",
    )


def has_one_of_each(url: str, version: int) -> bool:
    """Whether a worker has this version of each model, and no other one."""
    return v2.index(url) == {(name, str(version)): "READY" for name in WORK}


def assert_none_is_old(load: OpenLoad, marks: Marks, loaded: list[float]) -> None:
    """Neither after the load of a newer version had ended, nor after anybody has had an answer of a newer one."""
    answers = list(zip(load.report.answers, marks.seen, strict=True))
    for version, since in enumerate(loaded, 1):
        ends = [answer.began + answer.latency_s for answer, seen in answers if seen >= version]
        first = min(since, *ends) if ends else since
        sent = [(seen, answer.began + answer.late_s - first) for answer, seen in answers]
        old = [(seen, late_s) for seen, late_s in sent if late_s > 0 and seen < version]
        assert not old, (
            f"{len(old)} answers of an older version than {version}; the first, by so many seconds: {old[:5]}"
        )
    assert set(marks.seen) == marks.allowed
