"""The text of a setup file: from characters to entries, and back.

A setup file is a stream of tokens, alternately key and value. A run of commas and line breaks is one separator, and
empty tokens do not exist, so the same entries may stand on one line, one per line, or be cut after every comma.
This module does not know which settings exist; `settings.schema` does.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from what_next.errors import SetupError, counted

TOKEN = re.compile(
    r"""
    [\s,]* (?:\*[^\S\n]*)?                                          # separators, and the bullet of a list
    (?: \#[^\n]*                                                    # a comment
      | "(?P<quoted>(?:[^"\n]|"")*)" (?=[^\S\n]*(?:[,\n]|\Z))        # a quoted token, up to the next separator
      | (?P<plain>[^,\n]*) )                                        # a plain one
    """,
    re.VERBOSE,
)
TABLE = re.compile(r"\s*\[\[?([^\]]+)\]")
ASSIGNMENT = re.compile(r"\s*([\w.\-\s\"']+?)\s*=")


OTHERS = {
    "a data file, not a setup; `what-next init DATA` writes a setup for it": (
        ".csv", ".tsv", ".parquet", ".pq", ".inter", ".item", ".dat", ".gz", ".zst", ".json", ".jsonl", ".ndjson",
        ".pk", ".pkl", ".pickle", ".xlsx",
    ),
    "a model's file, not a setup; `what-next inspect MODEL` shows the settings that it was trained with": (
        ".safetensors", ".pt", ".pth", ".onnx",
    ),
}  # fmt: skip
"""Files that people mistake for a setup, by suffix, and what the message says about each."""


@dataclass(frozen=True)
class Token:
    """One token, its line (counted from 1), and whether it stood in double quotes."""

    text: str
    line: int
    quoted: bool = False


@dataclass(frozen=True)
class Entry:
    """A key without white space and in lower case, its value as written, and its place (`setup.txt, line 3`).

    `table`: whether it is an empty table of TOML.
    """

    key: str
    value: str
    where: str
    quoted: bool = False
    table: bool = False


def word(text: str) -> str:
    """The text without white space and in lower case, as keys and words are compared."""
    return "".join(text.split()).lower()


def tokens(text: str, source: str = "setup") -> Iterator[Token]:
    """The tokens of a setup text; `source` names it in messages.

    A token in double quotes may hold commas and `#`, and a doubled quote stands for one; it cannot span lines.
    A leading `*` of an unquoted token is ignored. `#` starts a comment only at the start of a token.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    line, counted = 1, 0
    for match in TOKEN.finditer(text):
        kind = match.lastgroup
        if kind is None:
            continue
        line, counted = line + text.count("\n", counted, match.start(kind)), match.start(kind)
        if kind == "quoted":
            yield Token(match[kind].replace('""', '"'), line, quoted=True)
        elif match[kind].startswith('"'):
            raise SetupError(
                f"{source}, line {line}: found {match[kind].strip()!r}: a double quote opens here and does not close "
                "before the next separator; close it (and write a quote inside a quoted value twice)"
            )
        elif value := match[kind].strip():
            yield Token(value, line)


def quote(text: str) -> str:
    """The text as one token of a setup file, in double quotes where it would not be read back unchanged otherwise."""
    if "\n" in text or "\r" in text:
        raise SetupError(f"{text!r} holds a line break, which a setup file cannot hold")
    plain = text and text == text.strip() and "," not in text and text[0] not in '"*#'
    return text if plain else '"' + text.replace('"', '""') + '"'


def parse_text(text: str, source: str = "setup") -> list[Entry]:
    """The entries of a setup.txt."""
    found = list(tokens(text, source))
    if len(found) % 2:
        alone = _alone(found)
        raise SetupError(
            f"{source}, line {alone.line}: {counted(len(found), 'token')} found, an odd number: {alone.text!r} has no "
            "partner; a setup file is pairs of key, value, so look for a comma between them or a missing value, or "
            "for a comma too many (a value that holds a comma stands in double quotes)"
        )
    pairs = zip(found[::2], found[1::2], strict=True)
    entries = [Entry(word(key.text), value.text, f"{source}, line {key.line}", value.quoted) for key, value in pairs]
    return without_doubles(entries)


def _alone(found: list[Token]) -> Token:
    """The token without a partner: on the first line with an odd number where most lines hold pairs, else the last."""
    counts = Counter(token.line for token in found)
    odd = [line for line, count in counts.items() if count % 2]
    line = odd[0] if 2 * len(odd) < len(counts) else found[-1].line
    return next(token for token in reversed(found) if token.line == line)


def parse_toml(text: str, source: str = "setup") -> list[Entry]:
    """The entries of a TOML setup: tables and arrays become dotted keys, values the text that setup.txt would hold."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number too long for Python, or too deeply nested arrays
        raise SetupError(f"{source}: this is not TOML: {error}") from None
    lines = _toml_lines(text)
    entries = []
    for key, value in flatten(tables) if tables else ():
        heads = (key.rsplit(".", cut)[0] for cut in range(key.count(".") + 1))
        line = next((lines[head] for head in heads if head in lines), None)
        where = source if line is None else f"{source}, line {line}"
        entries.append(Entry(key, "{}", where, table=True) if value is None else Entry(key, value, where))
    return without_doubles(entries)


def parse_overrides(overrides: Iterable[str]) -> list[Entry]:
    """The entries of `key=value` words from the command line."""
    entries = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise SetupError(f"command line: {override!r} found where key=value is allowed, such as epochs=1000")
        entries.append(Entry(word(key), value.strip(), "command line"))
    return without_doubles(entries)


def without_doubles(entries: list[Entry]) -> list[Entry]:
    """The entries; a `SetupError` names both places of a key that is given twice."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if other := first.get(entry.key):
            raise SetupError(
                f"{entry.where}: the key {entry.key!r:.80} is given twice, here as {entry.value!r:.80} and before as "
                f"{other.value!r:.80} ({other.where}); keep one"
            )
        first[entry.key] = entry
    return entries


def parse_file(path: Path) -> list[Entry]:
    """The entries of a setup file, TOML where its name ends in .toml."""
    kind = next((kind for kind, endings in OTHERS.items() if path.suffix.lower() in endings), None)
    if kind is not None and path.is_file():
        raise SetupError(f"{path}: is {kind}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SetupError(f"{path}: there is no such setup file; what-next init DATA writes one") from None
    except UnicodeDecodeError as error:
        raise SetupError(f"{path}: byte {error.start} is not UTF-8 text; is this a setup file?") from None
    except OSError as error:
        raise SetupError(f"{path}: the setup file cannot be read: {error.strerror}") from None
    return (parse_toml if path.suffix.lower() == ".toml" else parse_text)(text, str(path))


def read_entries(path: str | Path) -> dict[str, str]:
    """A setup file (setup.txt or TOML) as a dictionary from key to value, both text, in the file's order."""
    return {entry.key: entry.value for entry in parse_file(Path(path)) if not entry.table}


def flatten(value: object, key: str = "") -> Iterator[tuple[str, str | None]]:
    """Nested values by their dotted keys, as the text that setup.txt would hold; list members are `k.1`, `k.2`.

    An empty table is None.
    """
    if value == {}:
        yield key, None
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from flatten(child, f"{key}.{word(name)}" if key else word(name))
    elif isinstance(value, list) and value:
        for number, child in enumerate(value, start=1):
            yield from flatten(child, f"{key}.{number}")
    else:
        yield key, "none" if value == [] else value.isoformat() if isinstance(value, date) else str(value)


def _toml_lines(text: str) -> dict[str, int]:
    """The line of each dotted key, for messages, because tomllib gives none: a table's header, or `key =`."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := TABLE.match(line):
            table = word(match[1]).replace('"', "") + "."
            lines.setdefault(table[:-1], number)
        elif match := ASSIGNMENT.match(line):
            lines.setdefault(table + re.sub("[\"']", "", word(match[1])), number)
    return lines
