"""A cache of tuned baselines' results beside the data.

There is one file for each baseline and set of targets, in a folder `NAME.baselines` beside `NAME.parquet`. Its name
holds hashes of everything that the result depends on: the events (and the tags, for a baseline that reads them), the
code, how settings were chosen, and the evaluation. Files of other events or code are never read, and are deleted when a
new one is written.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from what_next import baselines, data, metrics, retrieval
from what_next.data.files import write_files
from what_next.errors import SaveError
from what_next.experiments.baselines import Settings
from what_next.experiments.evaluator import Evaluator
from what_next.metrics.next_items import Ranks, Targets
from what_next.metrics.places import Places
from what_next.state import State

PARTS = ("items", "above", "tied")


class Shelf:
    """The cached baselines of one data set, choice of settings and set of targets.

    Attributes:
        folder: beside the data.
        evaluator: the evaluation, in slates of `k`.
        events: hash of the log and of the code; `tagged`: of the items and their tags, too; `choice`: of how settings
            are chosen; `judged`: of the evaluation.
        anew: whether to ignore existing files and write new ones.
        used: the baselines whose results were read; `notes`: messages about the others.
    """

    def __init__(self, state: State, chosen_on: Targets, evaluator: Evaluator, anew: bool = False) -> None:
        """For a state, whose baselines are tuned on `chosen_on` among the items that the evaluator allows."""
        dataset, split, how, targets = state.dataset, state.split, state.setup.evaluation, evaluator.targets
        times, may = dataset.timestamps, [] if evaluator.allowed is None else [evaluator.allowed]
        log = [dataset.offsets, dataset.items, *([] if times is None else [times]), len(dataset.catalogue), _code()]
        choice = [state.chosen_by.known, chosen_on.hash, len(chosen_on), how.targets, how.k[0], how.seen, *may]
        judged = [targets.hash, targets.catalogue, max(evaluator.ks), evaluator.seen, evaluator.seed, *may]
        judged += [split.known] if state.more else []  # which they learned from with the settings that were chosen
        self.events, self.choice, self.judged = _hash(log), _hash(choice), _hash(judged)
        self.tagged = _hash([*log, dataset.catalogue.hash()])
        self.folder = state.setup.data.with_name(f"{state.setup.data.stem}.baselines")
        self.evaluator, self.anew = evaluator, anew
        self.used, self.notes = list[str](), list[str]()

    def settings(self, name: str) -> Settings | None:
        """The cached settings of a baseline, from any evaluation; None without a file."""
        for path in [] if self.anew else sorted(self.folder.glob(f"{self._made_of(name)}-{self.choice}-*.safetensors")):
            try:
                with safe_open(path, "numpy") as file:
                    return _settings_in(file.metadata())
            except (OSError, SafetensorError, ValueError):
                continue  # `read` reports a damaged file if it is needed
        return None

    def told(self) -> list[str]:
        """Messages for the user."""
        if not self.used:
            return self.notes
        names = ", ".join(self.used)
        return [f"{names}: as they were judged before, kept in {self.folder}; --anew judges them again", *self.notes]

    def path(self, name: str) -> Path:
        """The file of a baseline."""
        return self.folder / f"{self._made_of(name)}-{self.choice}-{self.judged}.safetensors"

    def _made_of(self, name: str) -> str:
        """The start of a baseline's file names: the hash of its input."""
        return f"{self.tagged if name == 'content' else self.events}-{name}"

    def read(self, name: str) -> tuple[Settings, Ranks] | None:
        """The settings and the ranking of a baseline; None if there is no file, or (with a note) a damaged one."""
        path = self.path(name)
        if self.anew or not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as file:
                settings = _settings_in(file.metadata())
                found = self._checked({part: file.get_tensor(part) for part in PARTS})
        except (OSError, SafetensorError, ValueError) as error:
            self.notes.append(f"{path}: is damaged ({error}); {name} is computed anew")
            return None
        self.used.append(name)
        return settings, found

    def write(self, name: str, settings: Settings, ranks: Ranks) -> None:
        """Write a result; a folder that cannot be written to is noted."""
        path, places = self.path(name), ranks.places
        parts = {"items": ranks.items, "above": places.above, "tied": places.tied}
        arrays = {part: np.ascontiguousarray(one, np.int32) for part, one in parts.items()}
        try:
            write_files({path: save(arrays, {"settings": json.dumps(settings)})})
        except SaveError as error:
            self.notes.append(f"what {name} came to is not kept: {error}")
            return
        for old in path.parent.glob(f"*-{name}-*.safetensors"):
            if not old.name.startswith(f"{self._made_of(name)}-"):
                old.unlink(missing_ok=True)

    def _checked(self, arrays: dict[str, np.ndarray]) -> Ranks:
        """The ranking, after a check that the arrays fit the targets."""
        targets = self.evaluator.targets
        shape = targets.sets.shape
        shapes = {"items": (len(targets), max(self.evaluator.ks)), "above": shape, "tied": shape}
        for part, one in arrays.items():
            if one.shape != shapes[part] or one.dtype != np.int32:
                raise ValueError(f"its {part} are {one.dtype} {one.shape}")
        items, above, tied = (arrays[part] for part in PARTS)
        if items.min(initial=-1) < -1 or items.max(initial=-1) >= targets.catalogue:
            raise ValueError("it names items that do not exist")
        if above.min(initial=0) < 0 or tied.min(initial=1) < 1:
            raise ValueError("its places are invalid")
        counts = (targets.sets >= 0).sum(axis=1)
        places = Places(above.astype(np.int64), tied.astype(np.int64), counts)
        return Ranks(items, places, targets.rewards)


def _settings_in(metadata: dict[str, str] | None) -> Settings:
    """The settings in a file's metadata; raises a `ValueError` where they are invalid."""
    found: Any = json.loads((metadata or {}).get("settings", ""))
    if not isinstance(found, dict):
        raise ValueError("its settings are invalid")
    return {str(key): float(value) for key, value in found.items()}


def _hash(values: Iterable[object]) -> str:
    """Short SHA-256 over arrays and plain values."""
    digest = hashlib.sha256()
    for value in values:
        # Hashes the array's memory without a copy, because a log may be larger than memory.
        one = np.ascontiguousarray(value).data if isinstance(value, np.ndarray) else memoryview(repr(value).encode())
        digest.update(one.nbytes.to_bytes(8, "little"))
        digest.update(one)
    return digest.hexdigest()[:12]


@cache
def _code() -> str:
    """Hash of all code that rankings depend on, so that no version number has to be maintained."""
    rooms = (Path(str(room.__file__)).parent for room in (baselines, data, metrics, retrieval))
    files = sorted(file for room in rooms for file in room.glob("*.py"))
    return _hash(file.read_bytes() for file in (*files, Path(__file__).with_name("baselines.py")))
