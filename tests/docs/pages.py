"""The pages of the documentation, and what is found in them."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), ROOT / "models" / "README.md"]
APPS = ("inference_site", "gateway_app", "worker_app")


def name_of(page: Path) -> str:
    """As messages and tests call a page."""
    return str(page.relative_to(ROOT))


def fences(page: Path, language: str) -> list[str]:
    """What its code blocks in that language hold."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Its text without code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def section(page: Path, title: str) -> str:
    """From that heading to the next one of its level, or a higher one."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name_of(page)} has no section {title!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of each row of its tables, without the rows of titles."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if re.fullmatch(r"\|[-|]+\|", line):
            found.pop()
        elif line.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def sources() -> Iterator[Path]:
    """Every module of the system."""
    yield ROOT / "manage.py"
    for app in APPS:
        yield from (ROOT / app).rglob("*.py")
