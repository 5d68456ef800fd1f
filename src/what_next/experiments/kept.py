"""What tuned baselines came to, kept beside the data, so that it need not be found again.

A file for each baseline and each set of targets, in a folder `NAME.baselines` beside `NAME.parquet`. Its name holds
hashes of all that it follows from: the events (and the tags, where it goes by them), the code, how settings were
chosen, and what was judged. A file of other events or other code is never read, and goes when a new one is written.
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
    """Where the baselines of some data, choice and targets are kept.

    Attributes:
        folder: beside the data.
        evaluator: what is judged, in slates of `k`.
        events: hash of the log and of the code; `tagged`: of the items and their tags, too; `choice`: of what settings
            are chosen on; `judged`: of what is judged.
        anew: whether nothing is read, but all found again and kept.
        used: the baselines whose results were read; `notes`: what a person should know of the others.
    """

    def __init__(self, state: State, chosen_on: Targets, evaluator: Evaluator, anew: bool = False) -> None:
        """Of a state, whose settings are chosen on some targets among the items that the evaluator allows."""
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
        """What was chosen for a baseline, whatever it was judged on; None where nothing is kept."""
        for path in [] if self.anew else sorted(self.folder.glob(f"{self._made_of(name)}-{self.choice}-*.safetensors")):
            try:
                with safe_open(path, "numpy") as file:
                    return _settings_in(file.metadata())
            except (OSError, SafetensorError, ValueError):
                continue  # said by whoever reads the ranking, or of no concern
        return None

    def told(self) -> list[str]:
        """What a person should know."""
        if not self.used:
            return self.notes
        names = ", ".join(self.used)
        return [f"{names}: as they were judged before, kept in {self.folder}; --anew judges them again", *self.notes]

    def path(self, name: str) -> Path:
        """The file of a baseline."""
        return self.folder / f"{self._made_of(name)}-{self.choice}-{self.judged}.safetensors"

    def _made_of(self, name: str) -> str:
        """How the names of a baseline's files start: with the hash of what it is counted from."""
        return f"{self.tagged if name == 'content' else self.events}-{name}"

    def read(self, name: str) -> tuple[Settings, Ranks] | None:
        """The settings and the ranking of a baseline; None where they are not kept, or damaged, which is noted."""
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
        """Keep what was found; a folder that cannot be written to is noted."""
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
        """The ranking, if these arrays can be one of the targets."""
        targets = self.evaluator.targets
        shape = targets.sets.shape
        shapes = {"items": (len(targets), max(self.evaluator.ks)), "above": shape, "tied": shape}
        for part, one in arrays.items():
            if one.shape != shapes[part] or one.dtype != np.int32:
                raise ValueError(f"its {part} are {one.dtype} {one.shape}")
        items, above, tied = (arrays[part] for part in PARTS)
        if items.min(initial=-1) < -1 or items.max(initial=-1) >= targets.catalogue:
            raise ValueError("it names items that there are not")
        if above.min(initial=0) < 0 or tied.min(initial=1) < 1:
            raise ValueError("its places are none")
        counts = (targets.sets >= 0).sum(axis=1)
        places = Places(above.astype(np.int64), tied.astype(np.int64), counts)
        return Ranks(items, places, targets.rewards)


def _settings_in(metadata: dict[str, str] | None) -> Settings:
    """The settings that a file holds; raises a `ValueError` where it holds none."""
    found: Any = json.loads((metadata or {}).get("settings", ""))
    if not isinstance(found, dict):
        raise ValueError("its settings are none")
    return {str(key): float(value) for key, value in found.items()}


def _hash(values: Iterable[object]) -> str:
    """Short SHA-256 over arrays and plain values."""
    digest = hashlib.sha256()
    for value in values:
        # The values of an array as they lie there, without a copy: a log may be larger than memory.
        one = np.ascontiguousarray(value).data if isinstance(value, np.ndarray) else memoryview(repr(value).encode())
        digest.update(one.nbytes.to_bytes(8, "little"))
        digest.update(one)
    return digest.hexdigest()[:12]


@cache
def _code() -> str:
    """Of all code that a ranking follows from: nobody has to remember to raise a version number."""
    rooms = (Path(str(room.__file__)).parent for room in (baselines, data, metrics, retrieval))
    files = sorted(file for room in rooms for file in room.glob("*.py"))
    return _hash(file.read_bytes() for file in (*files, Path(__file__).with_name("baselines.py")))
