"""What the documentation names exists, and what there is it names: links, settings, knobs, codes, commands, modules."""

import ast
import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from rest_framework.exceptions import MethodNotAllowed, ParseError, ValidationError

from gateway_app.models import Tuning
from tests.docs.pages import APPS, DOCS, PAGES, README, fences, name_of, prose, rows, section, sources
from tests.support.processes import ROOT

COMMANDS = {
    path.stem: app
    for app in APPS
    for path in (ROOT / app / "management" / "commands").glob("*.py")
    if path.stem[0] != "_"
}
# What Django REST framework says by itself: of methods, and of forms.
DRF_CODES = {each.default_code for each in (MethodNotAllowed, ParseError, ValidationError)}


# --- Links and paths ----------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not link.startswith("https://")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    assert links(page)
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.MULTILINE)
            assert anchor in map(slug, headings), f"{name_of(page)} links to {link}"


def test_the_readme_leads_to_every_page_and_picture() -> None:
    found = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    from_readme = {(README.parent / link.partition("#")[0]).resolve() for link in links(README)}
    assert {page for page in PAGES if page != README} <= from_readme
    assert {path for path in DOCS.iterdir() if path.suffix != ".md"} <= found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_are_named_exist(page: Path) -> None:
    """By their path, or by the end of it."""
    for name in re.findall(r"`([\w/]+\.(?:py|js|sh))`", prose(page)):
        assert next(ROOT.glob(f"[!.]*/**/{name}"), None) or (ROOT / name).exists(), f"{name_of(page)} names {name}"


def test_no_path_of_this_machine() -> None:
    for page in PAGES:
        assert str(ROOT) not in page.read_text(), name_of(page)


# --- Settings and knobs -------------------------------------------------------------------------------------------


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


def test_settings_have_the_variables_that_the_code_reads() -> None:
    assert {row[0].strip("`") for row in rows(section(DOCS / "settings.md", "Settings"))} == environment_reads()


def knobs(page: Path, title: str) -> dict[str, str]:
    """Each knob with its default, as a page shows them."""
    return {name: default.split()[0].replace(",", "") for name, default, *_ in rows(section(page, title))}


def default_of(field: Any) -> str:
    default = field.get_default()
    return "on" if default is True else "none" if default == "" else f"{default:g}"


def test_tuning_has_the_knobs_of_the_admin_with_their_defaults() -> None:
    fields: list[Any] = [Tuning._meta.get_field(name) for name in Tuning.PAYLOAD]
    all_knobs = knobs(DOCS / "tuning.md", "Knobs")
    assert all_knobs == {field.verbose_name: default_of(field) for field in fields}
    assert knobs(README, "Tune").items() <= all_knobs.items()


def test_the_figures_of_the_readme_are_those_of_the_performance_page() -> None:
    whole = (DOCS / "performance.md").read_text()
    for row in rows(section(README, "Performance")):
        for figure in re.findall(r"\d[\d,.]*\d", " ".join(row)):
            assert figure in whole, f"{figure} is not in docs/performance.md"


# --- Codes and commands -------------------------------------------------------------------------------------------


def test_errors_have_the_codes_of_the_code() -> None:
    codes = {code for row in rows(section(DOCS / "api.md", "Errors")) for code in re.findall(r"`(\w+)`", row[1])}
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


def test_commands_have_every_command_with_its_options() -> None:
    shown = {
        row[0].split("`")[1].split()[0]: set(re.findall(r"--[a-z-]+", " ".join(row)))
        for row in rows(section(DOCS / "settings.md", "Commands"))
    }
    assert shown == {command: options_of(command) for command in COMMANDS}


def test_commands_are_shown_with_options_that_they_have() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    uses = re.findall(rf"\b({'|'.join(COMMANDS)})( [^\n`]*--[^\n`]*)", text)
    assert uses
    for command, arguments in uses:
        unknown = set(re.findall(r"--[a-z-]+", arguments)) - options_of(command)
        assert not unknown, f"{command} has no {unknown}"


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named <= targets
    assert targets - {"help", "clean"} <= named


# --- Layout -------------------------------------------------------------------------------------------------------


def layout() -> set[Path]:
    """Every path in the layout, relative to the root; of a folder whose modules are listed below it, those alone."""
    (tree,) = (block for block in fences(DOCS / "development.md", "text") if block.startswith("inference_site/"))
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
            assert named & {path, *path.parents[:-2]}, f"{path} is not in the layout of docs/development.md"
