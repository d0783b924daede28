"""The README is true: its commands give the answers it shows, and what it names exists."""

import ast
import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from rest_framework.exceptions import MethodNotAllowed, ParseError, ValidationError

from gateway_app.models import Tuning
from tests.support.cluster import Cluster
from tests.support.processes import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
APPS = ("inference_site", "gateway_app", "worker_app")
COMMANDS = {
    path.stem: app
    for app in APPS
    for path in (ROOT / app / "management" / "commands").glob("*.py")
    if path.stem[0] != "_"
}
MORE = "…"
# What is the same on every machine and whatever was asked before; of everything else only the type is compared.
FIXED = {"request_id", "output_data", "error", "code", "healthy", "live", "ready", "total_workers", "state", "name"}
# What Django REST framework says by itself: of methods, and of forms.
DRF_CODES = {each.default_code for each in (MethodNotAllowed, ParseError, ValidationError)}


class Example(NamedTuple):
    """A command as the README shows it, and what it shows below."""

    command: str
    shown: str


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def examples() -> Iterator[Example]:
    for block in fences("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield Example(command, shown.strip("\n"))


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README.md has no section {title!r}"
    return found.group(1)


def first_cells(table: str) -> list[str]:
    return [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")][1:]


def sources() -> Iterator[Path]:
    yield ROOT / "manage.py"
    for app in APPS:
        yield from (ROOT / app).rglob("*.py")


# --- Commands and their answers ----------------------------------------------------------------------------------


def run(command: str, cluster: Cluster) -> str:
    """Runs it in a shell, with the addresses of a default cluster replaced by those of this one."""
    urls = [cluster.gateway_url, *cluster.worker_urls.values()]
    for number, url in enumerate(urls):
        command = command.replace(f"http://127.0.0.1:{8000 + number}", url)
    command = command.replace(".venv/bin/python", sys.executable)
    env = {**os.environ, **cluster.env}
    ended = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def with_markers(shown: str) -> Any:
    """The JSON that is shown; a list that was cut short ends with MORE, or has nothing else."""
    return json.loads(re.sub(rf"([,\[])\s*{MORE}\s*\]", rf'\1 "{MORE}"]', shown))


def compare(shown: Any, got: Any, where: str = "", fixed: bool = False) -> None:
    if isinstance(shown, dict) and where and got is None:  # figures that there are not yet
        return
    if isinstance(shown, dict):
        assert isinstance(got, dict), f"{where}: {got!r} is no object"
        assert list(shown) == list(got), f"{where}: the README shows {list(shown)}, the answer has {list(got)}"
        for key, value in shown.items():
            compare(value, got[key], f"{where}.{key}", key in FIXED)
    elif isinstance(shown, list):
        assert isinstance(got, list), f"{where}: {got!r} is no list"
        if shown in ([], [MORE]):  # what happened to this cluster before, such as breakers' events
            return
        if shown[-1:] == [MORE]:
            shown = shown[:-1]
            assert len(got) > len(shown), f"{where}: there is no more than the README shows"
        else:
            assert len(got) == len(shown), f"{where}: {len(got)} items, the README shows {len(shown)}"
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
    if shown.startswith("{"):
        compare(with_markers(shown), json.loads(got))
    else:
        assert skeleton(got) == skeleton(shown)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.command[:60])
def test_command_gives_what_is_shown(example: Example, cluster: Cluster) -> None:
    check(example.shown, run(example.command, cluster))


def test_the_three_value_requests_of_both_doors_are_shown() -> None:
    posts = [example.command for example in examples() if "[1.0, 2.0, 3.0]" in example.command]
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


# --- What is named exists ----------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("https://")]
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {link}"


def environment_reads() -> set[str]:
    """Names that the code reads: env.<reader>("NAME"), os.environ.get("NAME"), os.environ["NAME"]."""
    names = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                function, argument = ast.unparse(node.func), node.args[0]
                read = re.fullmatch(r"env\.\w+|os\.environ\.get|os\.getenv", function) is not None
            elif isinstance(node, ast.Subscript):
                read, argument = ast.unparse(node.value) == "os.environ", node.slice
            else:
                continue
            if read and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                names.add(argument.value)
    return names


def test_settings_table_has_the_variables_that_the_code_reads() -> None:
    shown = {cell.strip("`") for cell in first_cells(section("Settings"))}
    assert shown == environment_reads()


def test_tune_table_has_the_knobs_of_the_admin_with_their_defaults() -> None:
    rows = [row.split("|")[1:3] for row in section("Tune").splitlines() if row.startswith("| ")][1:]
    shown = {name.strip(): default.strip().split()[0].replace(",", "") for name, default in rows}
    fields: list[Any] = [Tuning._meta.get_field(name) for name in Tuning.PAYLOAD]
    assert shown == {field.verbose_name: default_of(field) for field in fields}


def default_of(field: Any) -> str:
    default = field.get_default()
    return "on" if default is True else "none" if default == "" else f"{default:g}"


def test_errors_table_has_the_codes_of_the_code() -> None:
    cells = [row.split("|")[2] for row in section("Errors").splitlines() if row.startswith("| ")]
    codes = {code for cell in cells for code in re.findall(r"`(\w+)`", cell)}
    text = "\n".join(path.read_text() for path in sources())
    raised = set(re.findall(r'(?:ApiError|_refuse)\(\s*(?:call,\s*)?\d{3},\s*"(\w+)"', text))
    assert raised <= codes
    for code in codes:
        known = f'"{code}"' in text or (code.startswith("missing_") and 'f"missing_{' in text)
        assert known or code in DRF_CODES, f"no code gives {code}"


def options_of(command: str) -> set[str]:
    """Those that the command adds to every Django command's."""

    def all_options(parser: ArgumentParser) -> set[str]:
        return {option for action in parser._actions for option in action.option_strings if option[:2] == "--"}

    own = load_command_class(COMMANDS[command], command).create_parser("manage.py", command)
    return all_options(own) - all_options(BaseCommand().create_parser("manage.py", "any"))


def test_commands_table_has_every_command_with_its_options() -> None:
    rows = [row for row in section("Commands").splitlines() if row.startswith("| `")]
    shown = {row.split("`")[1].split()[0]: set(re.findall(r"--[a-z-]+", row)) for row in rows}
    assert shown == {command: options_of(command) for command in COMMANDS}


def test_commands_are_shown_with_options_that_they_have() -> None:
    text = README + "".join(page.read_text() for page in PAGES[1:])
    uses = re.findall(rf"\b({'|'.join(COMMANDS)})( [^\n`]*--[^\n`]*)", text)
    assert uses
    for command, arguments in uses:
        unknown = set(re.findall(r"--[a-z-]+", arguments)) - options_of(command)
        assert not unknown, f"{command} has no {unknown}"


def layout() -> set[Path]:
    """Every path in the layout, relative to the root; of a folder whose modules are listed below it, those alone."""
    (tree,) = (block for block in fences("text") if block.startswith("inference_site/"))
    found: set[Path] = set()
    within: list[Path] = []  # the folder of each level of indentation
    for line in tree.splitlines():
        level = (len(line) - len(line.lstrip())) // 2
        base = within[level - 1] if level else Path()
        names = [base / name for name in re.split(r"\s{2,}", line.strip(), maxsplit=1)[0].split()]
        found = (found - {base}) | set(names)
        within[level:] = names[:1]
    return found


def test_layout_names_what_is_there() -> None:
    missing = [str(path) for path in layout() if not (ROOT / path).exists()]
    assert not missing


def test_layout_has_every_module() -> None:
    named = layout()
    for path in sources():
        path = path.relative_to(ROOT)
        if path.name != "__init__.py":
            assert named & {path, *path.parents[:-2]}, f"{path} is not in the layout of README.md"


def test_no_path_of_this_machine() -> None:
    for page in PAGES:
        assert str(ROOT) not in page.read_text(), page.name
