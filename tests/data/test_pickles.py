"""The one unpickler reads DataFrames of pandas 1 to 3, and runs nothing else."""

import base64
import builtins
import importlib.util
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from what_next.data.pickles import ADMITTED, EXACT, read_pickled_frame
from what_next.errors import DataError, UnsafePickleError

_spec = importlib.util.spec_from_file_location("pickled_frames", Path(__file__).with_name("pickled_frames.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
FRAMES = _module.FRAMES


class Call:
    """Pickles as a call of anything with anything."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def written(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize(("version", "protocol"), FRAMES)
def test_reads_frames_of_pandas_1_2_and_3(tmp_path: Path, version: str, protocol: int) -> None:
    path = tmp_path / "clean.pk"
    path.write_bytes(zlib.decompress(base64.b85decode(FRAMES[version, protocol])))
    frame = read_pickled_frame(path)
    assert frame.columns == ["user_id", "item_id", "timestamp", "rating", "genre"]
    assert frame["user_id"].to_list() == [1, 1, 2, 2]
    assert frame["item_id"].to_list() == ["a", "b", "a", None]
    assert frame["timestamp"].dt.epoch("s").to_list() == [1577836800, 1577923200, 1578009600, 1578096000]
    assert frame["rating"].fill_nan(None).to_list() == [1.0, 2.5, None, 4.0]
    assert frame["genre"].cast(pl.String).to_list() == ["x", "y", "x", "x"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_protocol_and_kind_of_column(tmp_path: Path, protocol: int) -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None], dtype="Int64"),
            "text": pd.array(["x", None], dtype="string"),
            "mixed": np.array([1, "x"], dtype=object),
            "yes": [True, False],
            "zone": pd.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize("Europe/Berlin"),
            "pause": pd.to_timedelta([1, 2], unit="s"),
        },
        index=pd.Index([7, 8], name="user_id"),
    )
    read = read_pickled_frame(written(tmp_path / "clean.pk", frame, protocol))
    assert read["user_id"].to_list() == [7, 8]
    assert read["whole"].to_list() == [1, None]
    assert read["text"].to_list() == ["x", None]
    assert read["mixed"].to_list() == ["1", "x"]
    assert read["zone"].dt.epoch("s").to_list() == [1577833200, 1577919600]


def hostile(path: Path) -> dict[str, object]:
    return {
        "posix.system": Call(os.system, f"touch {path}"),
        "builtins.eval": Call(eval, f"open({str(path)!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({str(path)!r}, 'w')"),
        "io.open": Call(open, str(path), "w"),
        "builtins.getattr": Call(Call(getattr, os, "system"), f"touch {path}"),
        "numpy.fromfile": Call(np.fromfile, "/etc/passwd"),
        "numpy.load": Call(np.load, str(path)),
        "pandas.io.pickle.read_pickle": Call(pd.read_pickle, str(path)),
        "builtins.type": Call(type, "Made", (), {}),
    }


@pytest.mark.parametrize("name", hostile(Path()))
def test_refuses_all_else_by_name_and_runs_nothing(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    attack = hostile(trace)[name]
    if name == "builtins.getattr":
        # A module cannot be pickled, so the nested attack is spelled out: getattr(ndarray, "tofile")(path).
        code = b"cbuiltins\ngetattr\n(cnumpy\nndarray\nVtofile\ntR(V" + str(trace).encode() + b"\ntR."
        path = tmp_path / "clean.pk"
        path.write_bytes(code)
    elif name == "numpy.load":
        pickle.dump(np.zeros(1), trace.open("wb"))
        path = written(tmp_path / "clean.pk", attack)
    else:
        path = written(tmp_path / "clean.pk", attack)
    before = trace.exists()
    with pytest.raises(UnsafePickleError, match="refused, nothing of it was run") as refusal:
        read_pickled_frame(path)
    assert name.rsplit(".", 1)[-1] in str(refusal.value)
    assert trace.exists() == before


def test_refuses_an_attack_inside_a_real_frame(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    frame = pd.DataFrame({"user": [1, 2], "item": pd.Series([Call(os.system, f"touch {trace}"), "b"], dtype=object)})
    with pytest.raises(UnsafePickleError, match="system"):
        read_pickled_frame(written(tmp_path / "clean.pk", frame))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["numpy.core.os.system", "pandas.compat.os.system", "numpy.ndarray.tofile"])
def test_a_dotted_name_does_not_lead_out_of_the_table(tmp_path: Path, name: str) -> None:
    module, _, rest = name.partition(".")
    code = pickle.PROTO + b"\x04" + b"".join(
        pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, rest)
    ) + pickle.STACK_GLOBAL + pickle.STOP  # fmt: skip
    path = tmp_path / "clean.pk"
    path.write_bytes(code)
    with pytest.raises(UnsafePickleError, match=rest.replace(".", r"\.")):
        read_pickled_frame(path)


def test_a_pickle_cannot_change_a_class_of_pandas(tmp_path: Path) -> None:
    before = pd.DataFrame.sum
    # BUILD with a pair (None, {...}) sets attributes on whatever lies below it on the stack.
    path = tmp_path / "clean.pk"
    path.write_bytes(b"cpandas\nDataFrame\n(N(dVsum\nV0\nstb.")
    with pytest.raises(UnsafePickleError, match="DataFrame"):
        read_pickled_frame(path)
    assert pd.DataFrame.sum is before


def test_the_table_admits_nothing_that_runs_code() -> None:
    names = {*ADMITTED, *(name for _, name in EXACT)}
    dangerous = {
        name for name in vars(builtins) if name in ("eval", "exec", "compile", "open", "getattr", "__import__")
    }
    assert not names & (dangerous | {"system", "popen", "load", "fromfile", "memmap", "read_pickle", "query"})


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds a dict, not a pandas DataFrame"):
        read_pickled_frame(written(tmp_path / "clean.pk", {"a": 1}))


def test_a_truncated_pickle_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "clean.pk", pd.DataFrame({"user": range(100), "item": range(100)}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="is not a pickled DataFrame"):
        read_pickled_frame(path)
