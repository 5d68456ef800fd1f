"""Mutation check: breaks the metrics, estimators and intervals on purpose, and counts how often a unit test notices.

It stands among the tests, not the benchmarks, because it judges the tests alone. `make mutate` runs it; it is too slow
to run with every change. `docs/mutants.md` lists the mutants that lived, and says of each why it may.

The tool is mutmut. It changes one thing at a time (an operator, a number, an argument, a keyword, an assignment), forks
each mutant from a process that has imported torch and collected the tests, and runs only the tests that reach the
changed function. Cosmic Ray starts Python anew for every mutant, and imports torch and all tests again: with 400 of
them that alone is more than the time there is. Settings, modules and tests: `tool.mutmut` in pyproject.toml.

Of all mutants `COUNT` are drawn by a hash of `SEED`, the function and the changed lines. The same sources give the same
mutants, and a change of one function leaves those that were drawn in the others. The tests draw the same numbers each
time (Hypothesis's profile `ci`).

Not drawn, as no test should care: other words in a string (messages, above all), and what an error or a failed assert
is told. Nor, as it would flatter the score: None in the place of a value, which the strict types see by themselves.
mutmut leaves alone annotations, docstrings, constants of a module, and functions under a decorator other than
classmethod and staticmethod (properties); `torch.no_grad()` is taken off the copy that is mutated, as without it
nothing comes out different.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JUDGED = ROOT / "docs/mutants.md"
SEED = 4
COUNT = 400
LEAST = 0.85
"""Share of the mutants that the tests must notice."""
DEAD = ("killed", "timeout", "segfault")
"""What mutmut calls a mutant that a test noticed; a mutant that hangs or crashes is noticed too."""


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    Attributes:
        name: what mutmut calls it; numbered, so another one's after the function has changed.
        key: 8 hexadecimal digits, the same as long as function and changed lines are.
        place: file and line of the change.
        change: the lines before and after, as in a diff.
    """

    name: str
    key: str
    place: str
    change: str


class _Meaning(ast.NodeTransformer):
    """Takes out of a function what no test should care about."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
        return ast.Constant("")

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        return ast.Raise(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        return ast.Assert(self.visit(node.test))


def means_the_same(function: str, mutated: str) -> bool:
    """Whether two sources of a function differ in the words of strings and the arguments of errors alone."""
    both = (_Meaning().visit(ast.parse(textwrap.dedent(source))) for source in (function, mutated))
    return len({ast.dump(tree) for tree in both}) == 1


def changed_lines(function: str, mutated: str) -> tuple[int, str]:
    """The first line that differs, from 0; and the lines before and after, as in a diff."""
    before, after = function.splitlines(), mutated.splitlines()
    parts = [part for part in difflib.SequenceMatcher(None, before, after, False).get_opcodes() if part[0] != "equal"]
    lines = []
    for _, first, last, start, stop in parts:
        lines += [f"-{line}" for line in before[first:last]] + [f"+{line}" for line in after[start:stop]]
    return parts[0][1], "\n".join(lines)


def lines_of_functions(source: str) -> dict[str, int]:
    """The line in which each function and method starts, by its name in mutmut."""
    from mutmut.mutation.trampoline_templates import mangle_function_name

    found = {}
    for node in ast.parse(source).body:
        owner = node.name if isinstance(node, ast.ClassDef) else None
        for function in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(function, ast.FunctionDef):
                found[mangle_function_name(name=function.name, class_name=owner)] = function.lineno
    return found


def mutants_of(path: str) -> Iterator[Mutant]:
    """All mutants of a file below the working folder that are worth a test."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    source = Path(path).read_text(encoding="utf-8")
    mutated = mutate_file_contents(path, source)
    lines, starts, seen = mutated.code.splitlines(), lines_of_functions(source), Counter[str]()
    for name in mutated.mutant_names:
        function = name.partition("__mutmut_")[0]
        texts = []
        for generated in (f"{function}__mutmut_orig", name):
            span = mutated.line_span_by_function_name[generated]
            text = "\n".join(lines[span.start - 1 : span.end])
            texts.append(text[text.index("def ") :].replace(generated, function, 1))
        if means_the_same(*texts) or texts[1].count("None") > texts[0].count("None"):
            continue
        line, change = changed_lines(*texts)
        known = " ".join([str(SEED), path, function, *change.split()])
        seen[known] += 1  # the same line may stand in a function twice
        key = hashlib.sha256(f"{known} {seen[known]}".encode()).hexdigest()[:8]
        yield Mutant(get_mutant_name(Path(path), name), key, f"{path}:{starts[function] + line}", change)


def drawn(count: int) -> list[Mutant]:
    """As many mutants of the files that `tool.mutmut` names, drawn without regard to what they are."""
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    paths = sorted({str(path) for pattern in settings["only_mutate"] for path in Path().glob(pattern)})
    return sorted((mutant for path in paths for mutant in mutants_of(path)), key=lambda mutant: mutant.key)[:count]


def copy_of_the_tree(folder: Path) -> None:
    """What mutmut needs, where it may write; this file too, which is a plugin of pytest there."""
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(__file__, folder / "src")
    for path in (folder / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"(?m)^@torch\.no_grad\(\)$", "# without gradients", text), encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quickest tests first, once it is known what they take: most mutants do not see the slow ones."""
    stored = Path("mutmut-stats.json")
    if stored.exists():
        seconds = json.loads(stored.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


def tried(mutants: list[Mutant], workers: int) -> dict[str, str]:
    """What became of each mutant, by its name."""
    mutmut = str(Path(sys.executable).with_name("mutmut"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "-p mutate"}
    command = [mutmut, "run", "--max-children", str(workers), *(mutant.name for mutant in mutants)]
    with Path("log.txt").open("w", encoding="utf-8") as log:
        code = subprocess.run(command, env=environment, stdout=None if sys.stdout.isatty() else log).returncode
    if code:
        sys.exit(Path("log.txt").read_text(encoding="utf-8")[-10_000:] + f"\nmutmut ended with code {code}")
    command = [mutmut, "results", "--all", "1"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(line.strip().rsplit(": ", 1) for line in told.stdout.splitlines() if ": " in line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time (%(default)s)")
    parser.add_argument("--only", default="", help="of the mutants drawn, those with this in their place or key")
    parser.add_argument("--json", type=Path, help="write what became of each to this file")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        copy_of_the_tree(Path(name))
        os.chdir(name)
        mutants = [mutant for mutant in drawn(arguments.count) if arguments.only in f"{mutant.place} {mutant.key}"]
        if not mutants:
            sys.exit(f"none of the mutants drawn has {arguments.only!r} in its place or key")
        fate = tried(mutants, arguments.workers)
        os.chdir(ROOT)
    return report(mutants, fate, time.perf_counter() - start, arguments.json)


def report(mutants: list[Mutant], fate: dict[str, str], seconds: float, file: Path | None) -> int:
    """Print the survivors and the score; the exit code."""
    if file is not None:
        file.write_text(json.dumps([vars(mutant) | {"fate": fate[mutant.name]} for mutant in mutants], indent=1) + "\n")
    judged = JUDGED.read_text(encoding="utf-8") if JUDGED.exists() else ""
    survivors = sorted((mutant for mutant in mutants if fate[mutant.name] not in DEAD), key=lambda mutant: mutant.place)
    for mutant in survivors:
        known = "" if mutant.key in judged else f"; not judged in {JUDGED.relative_to(ROOT)}"
        print(f"{mutant.place} {mutant.key} ({fate[mutant.name]}{known})\n{textwrap.indent(mutant.change, '    ')}\n")
    fates = Counter(fate[mutant.name] for mutant in mutants)
    score = 1 - len(survivors) / len(mutants)
    enough = score >= LEAST
    told = ", ".join(f"{number} {what}" for what, number in fates.most_common())
    print(f"{score:.1%} of {len(mutants)} mutants noticed ({told}) in {seconds:.0f} s; at least {LEAST:.0%} should be")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
