"""What the documentation says of /metrics: each name is there, and rules and questions ask for nothing else."""

import re

import pytest

from tests.docs.pages import DOCS, rows, section
from tests.support.cluster import Cluster
from tests.support.http import get
from tests.support.scrape import Scrape

NAME = r"\b(?:inference|nv)_\w+"
# What Prometheus adds to each sample.
ADDED = {"job", "instance"}


@pytest.fixture
def scrapes(cluster: Cluster) -> dict[str, Scrape]:
    """By who says it."""
    urls = {"gateway": cluster.gateway_url, "worker": cluster.worker_urls["worker_1"]}
    return {who: Scrape(get(f"{url}/metrics")[1].decode()) for who, url in urls.items()}


def test_the_table_has_every_name_with_its_kind(scrapes: dict[str, Scrape]) -> None:
    shown: dict[str, dict[str, str]] = {"gateway": {}, "worker": {}}
    told = section(DOCS / "api.md", "Reports").partition("### GET /metrics\n")[2].partition("\n### ")[0]
    for names, kinds, places, _ in rows(told):
        found = re.findall(NAME, names)
        kind = kinds.split(", ")
        each = kind * len(found) if len(kind) == 1 else kind
        for place in places.split(", "):
            shown[place].update(zip(found, each, strict=True))
    assert shown == {who: scrape.kinds for who, scrape in scrapes.items()}


def questions() -> list[str]:
    """Everything that is asked of Prometheus."""
    rules = (DOCS / "alerts.yml").read_text()
    asked = re.findall(r"expr: (?:>-\n)?(.*?)\n +(?:for|labels):", rules, re.DOTALL)
    assert len(asked) == rules.count("- alert:") > 3
    asked += [row[1] for row in rows(section(DOCS / "operations.md", "Prometheus"))]
    return asked


@pytest.mark.parametrize("asked", questions())
def test_what_is_asked_for_is_there(scrapes: dict[str, Scrape], asked: str) -> None:
    assert asked.count("(") == asked.count(")")
    for name, matched in re.findall(rf"({NAME})(?:\{{(.*?)\}})?", asked):
        known = [labels for scrape in scrapes.values() for labels in scrape.labels(name)]
        assert known, name
        for label, value in re.findall(r'(\w+)="(\w+)"', matched):
            assert label in ADDED or any(labels.get(label) == value for labels in known), f"{name}: {label}={value}"
