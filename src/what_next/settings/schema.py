"""Turns the entries of a setup file into a pydantic model: finds keys, converts values, explains mistakes.

It works on any tree of models. A field that holds a model is a group of dotted keys; a field that holds one of several
models is a group whose `name` chooses, and the group's own key is short for its `name`. A model with further fields
(`extra="allow"`, with `__pydantic_extra__`) takes any word as a key, which may contain dots.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import accumulate
from os.path import expanduser, normpath, realpath
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from what_next.errors import SetupError, nearest, some
from what_next.settings.file import Entry, without_doubles, word

WORD = "WORD"
"""Placeholder for any word at the end of a free key; it is in capitals, which keys that were read never have."""
LONG = re.compile(r"[+-]?\d{19,4000}")
"""An integer that may not fit into 64 bits."""
PLACE = re.compile(r"\d{1,9}")
"""The number of a list's member in a key."""
BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}


PLUGGED = "entry_points"
"""Key in a field's `json_schema_extra` for the group of entry points that add to its choices."""


def of_package(group: str) -> str:
    """The end of a message about a name that may be one of the user's own parts."""
    return f"; one of your own needs its package installed (entry points {group})"


def _own_parts(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return of_package(str(extra[PLUGGED])) if isinstance(extra, dict) and PLUGGED in extra else ""


def choices(field: FieldInfo) -> tuple[Any, ...]:
    """The types that a field may hold, None left out."""
    annotation = field.annotation
    union = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(one for one in union if one is not NoneType)


def optional(field: FieldInfo) -> bool:
    """Whether the field may be left empty (`none`)."""
    return NoneType in get_args(field.annotation) or is_list(field)


def is_list(field: FieldInfo) -> bool:
    """Whether the field holds several values."""
    return any(get_origin(one) in (tuple, list) for one in choices(field))


def _of_numbers(field: FieldInfo) -> bool:
    """Whether the field holds a list of numbers, which contain no commas."""
    return any({int, float} & {*get_args(choice)} for choice in choices(field))


def named_models(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The models that a field chooses from, by name; empty for other fields."""
    models = [one for one in choices(field) if isinstance(one, type) and issubclass(one, BaseModel)]
    return {get_args(one.model_fields["name"].annotation)[0]: one for one in models} if len(models) > 1 else {}


def leaves(model: type[BaseModel], entries: Mapping[str, Entry], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of a model with its field; for a group with a choice of models, the keys of the chosen one.

    Where a group takes any word, the last part of the key is `WORD`.
    """
    for name, field in model.model_fields.items():
        key = prefix + name
        models = [one for one in choices(field) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            yield key, field
        elif len(models) == 1:
            yield from leaves(models[0], entries, key + ".")
        else:
            named = named_models(field)
            given = (entries.get(one) for one in (key, key + ".name"))
            entry = next((one for one in given if one and not one.table), None)
            chosen = word(entry.value) if entry else field.get_default(call_default_factory=True).name
            if entry and chosen not in named:
                may_be = listed(named, "or") + nearest(chosen, named) + _own_parts(field)
                raise SetupError(f"{entry.where}: {key} is {_short(entry.value)}; allowed: {may_be}")
            yield from leaves(named[chosen], entries, key + ".")
    if model.model_config.get("extra") == "allow":
        yield prefix + WORD, _further(model)


def _further(model: type[BaseModel]) -> FieldInfo:
    """The field for any further key of a model; it has a default."""
    annotations = (vars(one).get("__annotations__", {}) for one in model.__mro__)
    _, value = get_args(next(found["__pydantic_extra__"] for found in annotations if "__pydantic_extra__" in found))
    return FieldInfo.from_annotated_attribute(value, None)


def field_of(key: str, fields: Mapping[str, FieldInfo]) -> FieldInfo | None:
    """The field of a key; None where there is no such key."""
    return fields.get(key) or fields.get(f"{_free(key, fields)}.{WORD}")


def _free(key: str, fields: Mapping[str, FieldInfo]) -> str | None:
    """The longest group above the key that takes any word; None if there is none."""
    heads = (key[: dot.start()] for dot in re.finditer(r"\.", key))
    return next((head for head in heads if f"{head}.{WORD}" in fields), None)


def override(model: type[BaseModel], entries: Sequence[Entry], overrides: Sequence[Entry]) -> list[Entry]:
    """The entries, replaced by the overrides of the same key; an override of a list replaces all of its members."""
    lists = {key for key, field in leaves(model, {one.key: one for one in (*entries, *overrides)}) if is_list(field)}

    def group(entry: Entry) -> str:
        head, _, last = entry.key.rpartition(".")
        return head if last == "name" or (head in lists and PLACE.fullmatch(last)) else entry.key

    replaced = {group(entry) for entry in overrides}
    return [entry for entry in entries if group(entry) not in replaced] + list(overrides)


def resolve(model: type[BaseModel], entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, FieldInfo]]:
    """The entries under their full keys (`split` is `split.name`, `user` is `user.0`), and the fields of these keys."""
    fields = dict(leaves(model, {entry.key: entry for entry in entries}))
    full, used = [], {}
    for entry in entries:
        if entry.table and any(one.startswith(entry.key + ".") for one in fields):
            continue  # an empty table of a group sets nothing
        head, _, number = entry.key.rpartition(".")
        key = entry.key + ".name" if entry.key + ".name" in fields else entry.key
        if head in fields and is_list(fields[head]) and PLACE.fullmatch(number):
            key, field = f"{head}.{int(number)}", fields[head]
        elif found := field_of(key, fields):
            field = found
            key += ".0" if is_list(field) else ""
        else:
            given = some([entry.key, entry.value])
            raise SetupError(f"{entry.where}: {unknown(entry.key, fields, model)} (found {given})")
        if entry.table:
            raise SetupError(f"{entry.where}: {entry.key} is an empty table; allowed: {allowed(field)}")
        full.append(replace(entry, key=key))
        used[key] = field
        if group := _free(key, fields):
            used[f"{group}.{WORD}"] = fields[f"{group}.{WORD}"]
    return without_doubles(full), used


def nest(entries: Sequence[Entry], fields: Mapping[str, FieldInfo], folder: Path) -> dict[str, Any]:
    """The values as the nested dictionary that the model takes."""
    values: dict[str, Any] = {}
    for entry in sorted(entries, key=_position):
        field, place = fields[entry.key], values
        value = convert(entry, field, folder)
        key = entry.key.removesuffix(f".{_position(entry)}" if is_list(field) else "")
        group = _free(key, fields) or key.rpartition(".")[0]
        for head in group.split(".") if group else ():
            place = place.setdefault(head, {})
        last = key.removeprefix(f"{group}.")
        if is_list(field):
            several = str(value).split(",") if _of_numbers(field) else [value]
            place.setdefault(last, []).extend([] if value is None else several)
        else:
            place[last] = value
    return values


def _position(entry: Entry) -> int:
    """The number of a list's member; 0 for other keys, so that a stable sort keeps their order."""
    number = entry.key.rpartition(".")[2]
    return int(number) if PLACE.fullmatch(number) else 0


def convert(entry: Entry, field: FieldInfo, folder: Path) -> object:
    """The value of an entry: a path relative to the setup file's folder, a text as written, or a normalised word."""
    if optional(field) and not entry.quoted and word(entry.value) == "none":
        return None
    text = entry.value.strip()
    if str in choices(field) and not text.endswith(".safetensors"):
        return text
    if Path in choices(field) or str in choices(field):
        if not text:
            raise SetupError(f"{entry.where}: {entry.key} is {entry.value!r}; allowed: {allowed(field)}")
        found = _path(entry, field, folder)
        return found if Path in choices(field) else str(found)
    value = word(entry.value)
    if int in choices(field) and LONG.fullmatch(value) and not -(2**63) <= int(value) < 2**63:
        may_be = allowed(field).removesuffix(" and below 2^63")
        raise SetupError(f"{entry.where}: {entry.key} is {_short(entry.value)}; allowed: {may_be} and below 2^63")
    return entry.value if is_list(field) else value


def _path(entry: Entry, field: FieldInfo, folder: Path) -> Path:
    """The path of an entry, relative to the setup file's folder; a `SetupError` where it cannot be a path."""
    try:
        joined = folder / Path(expanduser(entry.value))  # noqa: PTH111  leaves the `~` of an unknown user as it is
        short = Path(normpath(joined))  # `src/../data` becomes `data`, unless a symbolic link makes them differ
        return short if realpath(short) == realpath(joined) else joined
    except ValueError:
        found = f"{entry.key} is {_short(entry.value)}, and no path holds NUL or a lone surrogate"
        raise SetupError(f"{entry.where}: {found}; allowed: {allowed(field)}") from None


def allowed(field: FieldInfo) -> str:
    """The allowed values of a field, in words."""
    words = []
    for choice in choices(field):
        if get_origin(choice) is Literal:
            words.append(listed(get_args(choice), "or"))
        elif is_list(field):
            numbers = 'whole numbers, such as "5,10"' if int in get_args(choice) else 'numbers, such as "0.5,2"'
            words.append(numbers if _of_numbers(field) else "ids")
        else:
            names = {bool: "yes or no", int: "a whole number", float: "a number", Path: "a path", str: "a text"}
            words.append(names.get(choice, str(getattr(choice, "__name__", choice))))
    ends = {name: getattr(bound, name) for bound in field.metadata for name in BOUNDS if hasattr(bound, name)}
    bounds = [f"{BOUNDS[name]} {_number(end)}" for name, end in ends.items()]
    if "ge" in ends and ends["ge"] == ends.get("le"):
        words, bounds = [_number(ends["ge"])], []
    may_be_empty = optional(field) and not (is_list(field) and field.get_default(call_default_factory=True))
    parts = [" or ".join(words), " and ".join(bounds), "or none" if may_be_empty else ""]
    return " ".join(part for part in parts if part)


def _number(bound: int | float) -> str:
    """A bound for messages: powers of two from 2^31 as `2^63`, other integers in full."""
    if isinstance(bound, int):
        return f"2^{bound.bit_length() - 1}" if bound >= 2**31 and bound.bit_count() == 1 else str(bound)
    return f"{bound:g}"


def listed(values: Iterable[object], last: str = "and") -> str:
    """Values as a list in a sentence: `a, b or c`."""
    words = list(map(str, values))
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def unknown(key: str, fields: Mapping[str, FieldInfo], model: type[BaseModel] | None = None) -> str:
    """The message about an unknown key: the nearest key, and all keys of its group."""
    keys = [known.removesuffix(".name") for known in fields]
    heads = ["", *accumulate(key.split("."), "{}.{}".format)]
    inside = {head: [known for known in keys if known.startswith(head + ".")] for head in heads[1:]}
    group = next((head for head in reversed(heads) if inside.get(head)), "")
    if not group and "." in key:  # the group itself is mistyped
        group = get_close_matches(key, keys, n=1, cutoff=0)[0].partition(".")[0]
    below = [known for known in keys if group and known.startswith(f"{group}.")]
    if not below:  # only the names of groups: the message about each group lists its keys
        first = dict.fromkeys(known.partition(".")[0] for known in keys)
        below = [head if head in keys else f"{head}.*" for head in first]
    missing = max((known for known in keys if key.startswith(known) and key[len(known)] != "."), key=len, default="")
    hint = f" (is a comma missing after {missing!r}?)" if missing else ""
    part, inner, _ = key.removeprefix(f"{group}.").partition(".")
    if inner and key.startswith(f"{group}.") and any("." in known.removeprefix(f"{group}.") for known in below):
        hint += f" (or is {part!r} of a package that is not installed?)"
    meant = f"; {own}" if model and (own := _of_another(key, model)) else nearest(key, keys)
    return f"there is no setting {_short(key)}{meant}{hint}; allowed: {listed(below)}"


def _of_another(key: str, model: type[BaseModel]) -> str | None:
    """Which choice of a group has this key: `algorithm.sqn.weight`, or `algorithm.weight` of another algorithm."""
    group, _, rest = key.partition(".")
    named = named_models(model.model_fields[group]) if group in model.model_fields else {}
    chosen, _, own = rest.partition(".")
    if chosen in named and own in named[chosen].model_fields:
        return f"with `{group}, {chosen}` it is called {f'{group}.{own}'!r}"
    owners = [name for name, one in named.items() if rest in one.model_fields]
    return f"it belongs to {listed(owners)}" if owners else None


def _short(value: object) -> str:
    """The `repr` of a value, shortened where it is long."""
    told = repr(value)
    return told if len(told) <= 80 else f"{told[:60]}... ({len(told):,} characters)"


def explain(error: ValidationError, model: type[BaseModel], entries: Mapping[str, Entry], source: str) -> SetupError:
    """A pydantic error as a `SetupError`, one line for each mistake."""
    fields = dict(leaves(model, entries))
    return SetupError("\n".join(_explain(details, fields, entries, source) for details in error.errors()))


def _list_of(key: str, entries: Mapping[str, Entry]) -> Entry | None:
    """A list as one entry, at the place of its first member; None where it has no members."""
    member = re.compile(rf"{re.escape(key)}\.{PLACE.pattern}")
    members = [one for name, one in entries.items() if member.fullmatch(name)]
    return replace(members[0], value=",".join(one.value for one in members)) if members else None


def _explain(
    details: Mapping[str, Any], fields: Mapping[str, FieldInfo], entries: Mapping[str, Entry], source: str
) -> str:
    key = ""
    for part in map(str, details["loc"]):  # pydantic's path also names the model within a union, which is in no key
        longer = f"{key}.{part}" if key else part
        known = field_of(longer, fields) or any(f"{one}.".startswith(longer + ".") for one in fields)
        if details["type"] == "extra_forbidden" or known:
            key = longer
    key = f"{key}.name" if f"{key}.name" in fields and details["type"] != "value_error" else key
    field = field_of(key, fields)
    entry = entries.get(key) or _list_of(key, entries)
    where = entry.where if entry else source
    found = _short(entry.value if entry else details["input"])
    short = key.removesuffix(".name")
    if details["type"] == "missing":
        return f"{where}: the setting {short!r} is missing; allowed: {allowed(field) if field else 'a value'}"
    if details["type"] == "extra_forbidden":
        inner = list(details["input"])[:1] if isinstance(details["input"], Mapping) else []
        return f"{where}: {unknown('.'.join([key, *map(str, inner)]), fields)} (found {found})"
    if details["type"] == "value_error" or field is None:
        reason = str(details.get("ctx", {}).get("error", details["msg"]))
        about = entry or entries.get(reason.partition(" ")[0])  # for errors of the whole setup: the key it begins with
        return f"{about.where if about else source}: {reason}"
    note = "; a comment stands on a line of its own, or after a comma" if "#" in found else ""
    return f"{where}: {short} is {found}; allowed: {allowed(field)}{_own_parts(field)}{note}"
