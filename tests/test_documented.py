"""Every command in README, CONTRIBUTING and docs/ is one: its name, its options, its settings."""

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from what_next.cli.app import app
from what_next.rewards import Events
from what_next.settings import ALGORITHMS, reference, settings_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `what-next` in its blocks of the console, and after `make`."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S):
        for line in block.splitlines():
            if found := re.match(r"\$ (?:sudo (?:-u \S+ )?)?(?:\S*/)?(what-next|make) ", line):
                yield [found[1], *shlex.split(line[found.end() :], comments=True)]


DOCUMENTED = [(page.name, words) for page in PAGES for words in commands(page)]


def test_the_pages_have_commands() -> None:
    assert {"README.md", "CONTRIBUTING.md", "quickstart.md", "service.md", "deploy.md"} <= {
        name for name, _ in DOCUMENTED
    }
    assert len(DOCUMENTED) > 40


@pytest.mark.parametrize(("page", "words"), DOCUMENTED, ids=[" ".join(words)[:60] for _, words in DOCUMENTED])
def test_a_documented_command_is_one(page: str, words: list[str]) -> None:
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
        return
    command = typer.main.get_command(app)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
    assert not hasattr(command, "commands"), f"{page}: there is no command {words}"
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if re.match("--?[a-z]", word)} <= options
    keys = {one.key for one in reference()} | {one.key for name in ALGORITHMS for one in settings_of(name)}
    assert {found[1] for word in rest if (found := re.match(r"([a-z][\w.]*)=", word))} <= keys


def test_an_argument_that_a_docstring_tells_of_is_one() -> None:
    """The reference shows them in a table, by what stands before the colon; the build of the pages only warns."""
    wrong = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            _, _, told = (ast.get_docstring(node) or "").partition("Args:\n")
            section = re.match(r"(?:    .*\n?|\n(?=    ))*", told)
            made = [one for one in getattr(node, "body", []) if getattr(one, "name", "") == "__init__"] or [node]
            names = {one.arg.lstrip("*") for one in ast.walk(made[0]) if isinstance(one, ast.arg)}
            found = re.findall(r"^    (\S.*?):", section[0] if section else "", re.MULTILINE)
            wrong += [f"{file.name}: {node.name}: {name}" for name in found if name.lstrip("*") not in names]
    assert wrong == []


def test_the_page_on_algorithms_says_what_a_reward_of_ones_own_can_read() -> None:
    """It showed `events.items` and `events.real`, so that nobody could know that the logged reward is there, too."""
    table = (ROOT / "docs" / "algorithms.md").read_text().partition("| of `events` |")[2].partition("\n\n")[0]
    assert {f"`{one.name}`" for one in dataclasses.fields(Events)} <= set(re.findall(r"`\w+`", table))
