"""Types and shapes of what_next, checked while the tests run."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial, wraps
from types import CodeType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype

MOST = 50
"""Calls of a function that are checked in one test: a loop goes on with the shapes that it began with."""

jaxtyped = jaxtyping.jaxtyped
sizes = jaxtyped("context")
test = 0
inner: set[CodeType] = set()
"""Functions within functions that were made, and so are checked, in this test."""


def install_checks() -> None:
    """From here on, every module of what_next is imported with its types and shapes checked when it is called."""
    jaxtyping.jaxtyped = checked  # what the import hook writes above every function and dataclass
    jaxtyping.install_import_hook("what_next", "beartype.beartype")


def begin_test() -> None:
    """Every function is checked again."""
    global test
    test += 1
    inner.clear()


@contextmanager
def unchecked() -> Iterator[None]:
    """Without checks, for what calls with symbols in place of numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def checked(function: Any = None, *, typechecker: Any = None) -> Any:
    """What `jaxtyping.jaxtyped` does, for less: it checks the arguments twice, and binds them to their names first.

    Here beartype checks once, and only functions with shapes pay for the memory of their axes' sizes.
    """
    if function is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(function):
        if is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        return jaxtyped(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        if function.__code__ in inner:  # it is made anew in each call of the outer one
            return function
        inner.add(function.__code__)
    hints = hints_of(function)
    shapes = [shape for hint in hints.values() for shape in shapes_in(hint)]
    if any("{" in shape for shape in shapes):  # a size is named by an argument
        return jaxtyped(function, typechecker=typechecker)
    of, calls, strict = -1, 0, None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal of, calls, strict
        if of != test:
            of, calls = test, 0
        calls += 1
        if calls > MOST or jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if strict is None:  # most functions are never called: beartype writes code for those that are
            strict = strictly(function, hints)
        if not shapes:
            return strict(*args, **kwargs)
        with sizes:
            return strict(*args, **kwargs)

    return wraps(function)(call)


def strictly(function: Any, hints: dict[str, Any]) -> Any:
    """The function, its arguments and what it returns checked by these hints."""
    annotations, function.__annotations__ = function.__annotations__, hints
    strict = beartype(function)
    function.__annotations__ = annotations
    return strict


def hints_of(function: Any) -> dict[str, Any]:
    """The annotations; one that names what is not defined yet is not checked."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        return {name: hint_of(hint, function.__globals__) for name, hint in function.__annotations__.items()}


def hint_of(hint: Any, names: dict[str, Any]) -> Any:
    def probe() -> None: ...

    probe.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(probe, names, include_extras=True)["hint"]
    except NameError:
        return Any


def shapes_in(hint: Any) -> Iterator[str]:
    """All in a hint, as they are written."""
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        yield hint.dim_str
    for part in get_args(hint):
        yield from shapes_in(part)
