"""The documentation is true: its commands give the answers that it shows."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.docs.pages import DOCS, PAGES, README, fences, name_of
from tests.support.cluster import Cluster
from tests.support.processes import ROOT
from tests.support.unhurried import unhurried
from tests.support.waiting import PATIENCE_S

OPERATIONS = DOCS / "operations.md"
MORE = "…"
# What is the same on every machine and whatever was asked before; of everything else only the type is compared.
FIXED = {"request_id", "output_data", "error", "code", "healthy", "live", "ready", "total_workers", "state", "name"}


class Example(NamedTuple):
    """A command as a page shows it, and what it shows below."""

    page: str
    command: str
    shown: str


def examples() -> Iterator[Example]:
    for page in PAGES:
        for block in fences(page, "console"):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                yield Example(name_of(page), command, shown.strip("\n"))


def with_addresses(text: str, cluster: Cluster) -> str:
    """With the addresses of a default cluster replaced by those of this one."""
    for number, url in enumerate([cluster.gateway_url, *cluster.worker_urls.values()]):
        text = text.replace(f"127.0.0.1:{8000 + number}", url.removeprefix("http://"))
    return text


def ended_well(command: list[str], env: dict[str, str]) -> str:
    """What it printed."""
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def run(command: str, cluster: Cluster) -> str:
    """Runs it in a shell."""
    command = with_addresses(command, cluster).replace(".venv/bin/python", sys.executable)
    return ended_well(["bash", "-c", command], {**os.environ, **cluster.env})


def with_markers(shown: str) -> Any:
    """The JSON that is shown; a list that was cut short ends with MORE, or has nothing else."""
    return json.loads(re.sub(rf"([,\[])\s*{MORE}\s*\]", rf'\1 "{MORE}"]', shown))


def compare(shown: Any, got: Any, where: str = "", fixed: bool = False) -> None:
    if isinstance(shown, dict) and where and got is None:  # figures that there are not yet
        return
    if isinstance(shown, dict):
        assert isinstance(got, dict), f"{where}: {got!r} is no object"
        assert list(shown) == list(got), f"{where}: the page shows {list(shown)}, the answer has {list(got)}"
        for key, value in shown.items():
            compare(value, got[key], f"{where}.{key}", key in FIXED)
    elif isinstance(shown, list):
        assert isinstance(got, list), f"{where}: {got!r} is no list"
        if shown in ([], [MORE]):  # what happened to this cluster before, such as breakers' events
            return
        if shown[-1:] == [MORE]:
            shown = shown[:-1]
            assert len(got) > len(shown), f"{where}: there is no more than the page shows"
        else:
            assert len(got) == len(shown), f"{where}: {len(got)} items, the page shows {len(shown)}"
        for index, value in enumerate(shown):
            compare(value, got[index], f"{where}[{index}]", fixed)
    elif fixed and isinstance(shown, float):
        assert got == pytest.approx(shown, abs=1e-4), where
    elif fixed:
        assert got == shown, where
    elif None not in (shown, got):  # a figure that there is not yet
        kinds = [float if type(each) is int else type(each) for each in (shown, got)]
        assert kinds[0] is kinds[1], f"{where}: {got!r} is not of the type of {shown!r}"


def skeleton(text: str) -> list[str]:
    """The lines of a text without what differs from run to run: figures, addresses, who answered, on what device."""
    text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)
    text = re.sub(r"by worker_\d", "by WORKER", text)
    text = re.sub(r"on \w+Provider.*", "on PROVIDER", text)
    lines = [" ".join(re.sub(r"\d[\d,.]*", "N", line).split()) for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("This client used")]  # runbench says that at times


def check(shown: str, got: str) -> None:
    if shown.startswith("HTTP/"):
        (shown_head, _, shown), (got_head, _, got) = shown.partition("\n\n"), got.replace("\r", "").partition("\n\n")
        assert got_head.splitlines()[0] == shown_head.splitlines()[0]
        assert [line.split(":")[0] for line in got_head.splitlines()] == [
            line.split(":")[0] for line in shown_head.splitlines()
        ]
    if shown.startswith(("{", "[")):
        compare(with_markers(shown), json.loads(got))
    else:
        assert skeleton(got) == skeleton(shown)


@pytest.fixture(scope="module")
def calm(shared_cluster: Cluster) -> Iterator[None]:
    """A busy machine that stops a worker for a moment must not show in what the commands print."""
    with unhurried(shared_cluster, hedging=False):
        yield


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("example", list(examples()), ids=lambda example: f"{example.page}: {example.command[:60]}")
def test_command_gives_what_is_shown(example: Example, cluster: Cluster) -> None:
    check(example.shown, run(example.command, cluster))


def test_programs_run(cluster: Cluster) -> None:
    """Those in Python: Triton's client."""
    programs = [program for page in PAGES for program in fences(page, "python")]
    assert programs
    for program in programs:
        printed = ended_well([sys.executable, "-c", with_addresses(program, cluster)], dict(os.environ))
        assert printed.startswith("[[")


def test_the_three_value_requests_of_both_doors_are_in_the_readme() -> None:
    shown = [example for example in examples() if example.page == name_of(README)]
    posts = [example.command for example in shown if "[1.0, 2.0, 3.0]" in example.command]
    assert any("127.0.0.1:8000/infer" in command for command in posts)
    assert any("127.0.0.1:8001/infer" in command for command in posts)


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        ('{"healthy": true}', '{"healthy": false}'),
        ('{"output_data": [0.5, 0.1]}', '{"output_data": [0.5, 0.2]}'),
        ('{"output_data": [0.5]}', '{"output_data": [0.5, 0.1]}'),
        ('{"uptime_s": 1.5}', '{"uptime_s": "1.5"}'),
        ('{"live": true}', '{"live": true, "more": 1}'),
        ('{"events": []}', '{"events": 1}'),
        ("  Mean   4.37", "  Average   4.37"),
    ],
)
def test_the_comparison_sees_a_difference(shown: str, got: str) -> None:
    with pytest.raises(AssertionError):
        check(shown, got)


# --- What operators do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [README, OPERATIONS, DOCS / "tuning.md"], ids=name_of)
def test_orders_and_canaries_are_done_as_shown(page: Path, make_cluster: Callable[..., Cluster]) -> None:
    """In the order in which the page shows them; on a cluster of its own, for they change it."""
    cluster = make_cluster()
    lines = "".join([*fences(page, "sh"), *fences(page, "text")]).splitlines()
    uses = [line for line in lines if re.search(r"manage\.py (operate|canary) ", line) and "sentences" not in line]
    assert uses
    for use in uses:
        command = f"{use.partition('#')[0].removeprefix('$ ')} --gateway {cluster.gateway_url}"
        said = run(command if " show " in command else f"{command} --yes", cluster)
        assert "worker_2" in said
        if use.startswith("$ "):  # with what it says
            assert set(skeleton(said)) <= set(skeleton("\n".join(lines)))


def test_actions_by_http_are_done_as_shown(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    (script,) = (block for block in fences(OPERATIONS, "sh") if "/actions/" in block)
    make_token, _, *asks = script.splitlines()
    token = re.fullmatch(r"Generated token (\w+) for user admin", run(make_token, cluster).strip())
    assert token is not None
    effect, done = (json.loads(run(f"KEY={token[1]}; {ask.replace('curl', 'curl -s')}", cluster)) for ask in asks)
    sentence = re.search(r"The first answers `(.*?)`, the second `(.*?)`", OPERATIONS.read_text())
    assert sentence is not None
    shown = [re.findall(r'"(\w+)"', each) for each in sentence.groups()]
    assert [list(effect), list(done)] == shown
    assert done == {"done": "worker_2: draining"}
