"""The one place that unpickles: a pandas DataFrame, and nothing but what a DataFrame needs.

A pickle is a program: it names callables and calls them. Here every name is looked up in tables; reading stops at a
name that is in none of them, before it is even imported. Public names of pandas are imported from their present public
place, wherever pandas 1.x and 2.x kept them; internal names, and those of other libraries, only from their own module.
"""

import pickle
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, tzinfo
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from what_next.errors import DataError, MissingExtraError, UnsafePickleError

_PUBLIC = {
    "pandas": "ArrowDtype BooleanDtype Categorical CategoricalDtype CategoricalIndex DataFrame DatetimeIndex "
    "DatetimeTZDtype Float32Dtype Float64Dtype Index Int8Dtype Int16Dtype Int32Dtype Int64Dtype MultiIndex NA "
    "RangeIndex StringDtype TimedeltaIndex UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype",
    "pandas.arrays": "ArrowExtensionArray ArrowStringArray BooleanArray DatetimeArray FloatingArray IntegerArray "
    "NumpyExtensionArray StringArray TimedeltaArray",
}
"""Public names of pandas: each is imported from here, whichever of pandas' modules the pickle names."""
_RENAMED = {
    "PandasArray": "NumpyExtensionArray", "Int64Index": "Index", "UInt64Index": "Index", "Float64Index": "Index",
}  # fmt: skip
"""Former names of some of them in pandas 1."""
_INTERNAL = {
    "builtins": "bytearray slice",
    "_codecs": "encode",
    "datetime": "date datetime timedelta timezone",
    "zoneinfo": "ZoneInfo",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.tslibs.nattype": "_nat_unpickle",
    "pandas._libs.tslibs.timedeltas": "_timedelta_unpickle",
    "pandas._libs.tslibs.timestamps": "_unpickle_timestamp",
    "pandas.core.indexes.base": "_new_Index",
    "pandas.core.indexes.datetimes": "_new_DatetimeIndex",
    "pandas.core.internals.managers": "BlockManager",
    "pyarrow.lib": "chunked_array py_buffer type_for_alias",
}
"""Names that are imported from exactly the module that the pickle names."""


def _zone(key: str, *_: object) -> tzinfo:
    return ZoneInfo(key)


def _attribute(owner: object, name: str) -> Callable[..., object]:
    """The only attribute that DataFrames with time zones request by `getattr`."""
    if owner is ZoneInfo and name == "_unpickle":
        return _zone
    raise _Refused("builtins.getattr")


def _restore_array(data: Any) -> Any:
    """A pyarrow array from its buffers, validated, because offsets in a hostile file could point anywhere."""
    array = import_module("pyarrow.lib")._restore_array(data)
    array.validate(full=True)
    return array


_OWN: dict[tuple[str, str], Callable[..., object]] = {
    ("builtins", "getattr"): _attribute,
    ("pytz", "_UTC"): lambda: UTC,
    ("pytz", "_p"): _zone,
    ("pyarrow.lib", "_restore_array"): _restore_array,
}
ADMITTED = {name: home for home, names in _PUBLIC.items() for name in names.split()}
"""The public names, and the module that each is imported from."""
EXACT = {(module, name) for module, names in _INTERNAL.items() for name in names.split()}
"""All other names that a pickle may use, each only from its own module."""


class _Refused(Exception):
    """Carries a refused name out of the unpickler."""


class _FrameUnpickler(pickle._Unpickler):
    """The unpickler in Python instead of the one in C, because its BUILD step can be guarded, too."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        # Up to protocol 2 pickles use Python 2's name of this module.
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in _OWN:
            return _OWN[module, name]
        module = module.replace("numpy.core.", "numpy._core.")  # its name in numpy 1
        if (module, name) in EXACT:
            return getattr(import_module(module), name)
        public = _RENAMED.get(name, name)
        if module.partition(".")[0] == "pandas" and public in ADMITTED:
            return getattr(import_module(ADMITTED[public]), public)
        raise _Refused(f"{module}.{name}")

    def load_build(self) -> None:
        """Set an object's state, but never a class's or a function's, because that would change pandas itself."""
        owner = self.stack[-2]
        if callable(owner):
            raise _Refused(f"a change of {getattr(owner, '__name__', owner)}")
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


def read_pickled_frame(path: Path) -> pl.DataFrame:
    """The pandas DataFrame pickled in a file, as a Polars frame; a named index becomes columns.

    Raises:
        UnsafePickleError: the file uses something that a DataFrame does not need; nothing of it was run.
        DataError: the file is not a pickle, is truncated, or holds something else.
        MissingExtraError: pandas is not installed.
    """
    try:
        pandas = import_module("pandas")
    except ImportError as error:
        raise MissingExtraError("pandas", "pandas", f"reading {path}") from error
    try:
        with path.open("rb") as file:
            frame = _FrameUnpickler(file).load()
    except _Refused as refusal:
        raise UnsafePickleError(
            f"{path}: refused, nothing of it was run: it asks for {refusal}, which a DataFrame does not need; "
            "if you trust the file, save it as Parquet with pandas and import that"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle can fail with any error of its callables
        raise DataError(
            f"{path}: is not a pickled DataFrame that pandas {pandas.__version__} can read "
            f"({type(error).__name__}: {error}); save it again, or as Parquet"
        ) from error
    if type(frame) is not pandas.DataFrame:
        raise DataError(f"{path}: holds a {type(frame).__name__}, not a pandas DataFrame; pickle the table itself")
    return from_pandas(frame)


def from_pandas(frame: Any) -> pl.DataFrame:
    """A pandas DataFrame as a Polars frame. A named index becomes columns; columns of mixed objects become text."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    return pl.DataFrame([_column(frame.iloc[:, place], str(name)) for place, name in enumerate(frame.columns)])


def _column(column: Any, name: str) -> pl.Series:
    # pandas 3 cannot use Arrow types pickled by pandas 1 and 2, but the Arrow data in such a column is intact.
    arrow = getattr(column.array, "_pa_array", None)
    if arrow is not None:
        return pl.Series(name, pl.from_arrow(arrow))
    if column.dtype != object:
        with suppress(TypeError, NotImplementedError):  # types that Arrow lacks: sparse columns, complex numbers
            return pl.Series(name, pl.from_pandas(column))
    values = [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]
    with suppress(TypeError, OverflowError, UnicodeEncodeError):
        if (found := pl.Series(name, values)).dtype != pl.Object:  # as UUIDs would be
            return found
    try:
        return pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)
    except UnicodeEncodeError as error:
        raise DataError(f"column {name!r}: {error.object!r} is no text that UTF-8 can hold; mend it") from None
