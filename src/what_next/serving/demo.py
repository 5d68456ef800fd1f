"""`what-next demo`: simulated listeners who get bored, a small model trained on them, and a service that answers them.

Nothing is downloaded. The listeners are those of the world `boredom`; genres, titles and names are made up here.
"""

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from what_next.errors import SetupError
from what_next.python import fit
from what_next.serving.http.run import listen
from what_next.settings import Setup
from what_next.worlds import Boredom

GENRES = ("Folk", "Jazz", "Soul", "Rock", "Techno", "Ambient", "Classical", "Samba")
FIRST = (
    "Amber Borrowed Bright Broken Crooked Distant Electric Empty Faded Golden Hollow Last Little Lonely Northern "
    "Open Paper Quiet Restless Silver Slow Sudden Velvet Winter"
)
SECOND = (
    "Avenue Bells Bridges Carousel Corners Daylight Engines Gardens Harbour Islands Lanterns Letters Mirrors "
    "Mornings Orchard Rain River Rooftops Shadows Signals Stairs Summer Tides Windows"
)
NAMES = (
    "Ada Ben Cleo Dan Ella Finn Gia Hugo Ida Jon Kira Leo Mia Noah Olga Paul Quinn Rosa Sam Tess Uma Vito Wanda "
    "Xenia Yann Zoe Amir Bea Carl Dora Emil Fay Gus Hana Ivo June Karl Lina Max Nora"
)
LISTENERS = NAMES.split()
WORLD = Boredom(
    items=300, topics=len(GENRES), slots=1, steps=40, threshold=4, memory=8, window=6, offset=0.6, slope=20.0, seed=1
)
"""After four plays of a genre within six songs, a listener does not want that genre for the next six."""
LOG = 600
"""Listeners in the training log, with 40 songs each."""
PAUSE = 1.5
"""Seconds between two songs of each listener who uses the service."""
HOUR = 3_600_000_000
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Requests to the service bypass any proxy of the environment."""
WITH_PARENT = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from what_next.cli.app import run
run()
"""
"""Runs the command line in a child process that exits when its parent does: the parent's end of a pipe closes."""
SETTINGS: dict[str, Any] = {
    "dim": 32,
    "batch_size": 32,
    "learning_rate": 0.02,
    "passes": 50,
    "patience": None,
    "inputs_items": "attributes",
    "inputs_rewards": True,
    "split_test": 0.0,
    "threads": 1,
    "device": "cpu",
    "server_epsilon": 0.1,
    "server_deadline": 1000.0,
    "server_experiment": "trained:popular",
    "server_popular_every": 10.0,
    "loop_look": 5.0,
    "loop_every": 45.0,
    "loop_fresh": 0,
    "loop_passes": 1,
    "loop_drift": 0.0,
    "loop_shadow": 40,
    "loop_canary": 0.5,
    "loop_answers": 1000,
}
"""Settings of the model, the service and the loop: with short intervals and few answers, so that things happen soon."""


def songs() -> pl.DataFrame:
    """The catalogue: the title of each item of the world, and its share of each genre."""
    titles = [f"{one} {two}" for one, two in product(FIRST.split(), SECOND.split())]
    drawn = np.random.default_rng(0).permutation(len(titles))[: WORLD.items]
    shares = {genre: WORLD.item_vectors[:, place] for place, genre in enumerate(GENRES)}
    ids = [str(item) for item in range(WORLD.items)]
    return pl.DataFrame({"item_id": ids, "title": [titles[one] for one in drawn], **shares})


def plays(users: int, rng: np.random.Generator, now: int) -> pl.DataFrame:
    """A log of what listeners heard in the hour until `now` (microseconds); the reward is 0 for a skipped song, else 1.

    Half of the songs are drawn uniformly, half in proportion to the listener's taste, without regard to boredom.
    """
    state, rows, everyone = WORLD.reset(users, rng), [], np.arange(users)
    liked = WORLD.relevance(state.tastes @ WORLD.item_vectors.T)
    chances = (liked / liked.sum(1, keepdims=True)).cumsum(1)
    for step in range(WORLD.steps or 1):
        by_taste = np.minimum((chances < rng.random((users, 1))).sum(1), WORLD.items - 1)
        items = np.where(rng.random(users) < 0.5, by_taste, rng.integers(WORLD.items, size=users))
        state, feedback = WORLD.step(state, items[:, None], rng)
        time = np.full(users, now - HOUR + step * 60_000_000)
        rows.append(pl.DataFrame({"user": everyone, "item": items, "time": time, "reward": feedback.rewards}))
    return pl.concat(rows).select(
        pl.format("listener {}", pl.col("user") + 1).alias("user_id"),
        pl.col("item").cast(pl.String).alias("item_id"),
        pl.from_epoch("time", "us").dt.replace_time_zone("UTC"),
        "reward",
    )


def trained(folder: Path, now: int, port: int) -> Setup:
    """Train a small model of these listeners; its setup is written to the folder.

    Raises:
        KeyboardInterrupt: training was interrupted.
    """
    log = plays(LOG, np.random.default_rng(0), now)
    model = fit(log, "dqn", items=songs(), folder=folder, verbose=False, **SETTINGS | {"server_port": port})
    if model.training is not None and model.training.interrupted:
        raise KeyboardInterrupt
    return Setup.read(folder / "setup.txt", ["train=no"])


class Listeners(threading.Thread):
    """Simulated listeners who use the service over HTTP; after 40 songs a listener is replaced by a new one."""

    def __init__(self, address: str, seed: int = 1) -> None:
        """`address`: of the service."""
        super().__init__(name="listeners", daemon=True)
        self.address, self.rng, self.stopping = address, np.random.default_rng(seed), threading.Event()
        self.state = WORLD.reset(len(LISTENERS), self.rng)
        self.names, self.numbers, self.events = list(LISTENERS), [count(2) for _ in LISTENERS], count()
        self.new = list(range(len(LISTENERS)))  # listeners without a song yet
        self.run_id = f"{self.rng.integers(2**32):08x}"

    def stop(self) -> None:
        """Stop the thread."""
        self.stopping.set()
        self.join()

    def run(self) -> None:
        """Listen until stopped; a failed request is tried again in the next round."""
        while not self.stopping.wait(PAUSE):
            with suppress(OSError, HTTPException, KeyError):
                self._listen()

    def _listen(self) -> None:
        """One song for each listener; a new listener's first song is not from the service."""
        if self.new:
            self._tell(self.new, [None] * len(self.new))
            self.new = []
        asked = {"requests": [{"user_id": name, "k": 1} for name in self.names]}
        answers = self._post("/v1/recommendations/batch", asked)["answers"]
        items = np.array([int(one["items"][0]["item_id"]) for one in answers])
        self.state, _ = WORLD.step(self.state, items[:, None], self.rng)
        self._tell(range(len(LISTENERS)), [one["recommendation_id"] for one in answers])
        self.new = np.flatnonzero(WORLD.truncated(self.state)).tolist()
        if self.new:
            self.state = WORLD.restart(self.state, np.array(self.new), self.rng)
        for one in self.new:
            self.names[one] = f"{LISTENERS[one]} {next(self.numbers[one])}"

    def _tell(self, some: Sequence[int], answers: Sequence[str | None]) -> None:
        """Send the listeners' events on their last songs, with the recommendation that each came from."""
        events = []
        for one, answer in zip(some, answers, strict=True):
            played = bool(self.state.clicks[one, 0])
            event = {"user_id": self.names[one], "item_id": str(self.state.shown[one, 0]), "reward": float(played)}
            event |= {"event_id": f"{self.run_id}-{next(self.events)}", "event": "play" if played else "skip"}
            events.append(event if answer is None else {**event, "recommendation_id": answer})
        self._post("/v1/events/batch", {"events": events})

    def _post(self, path: str, body: Any) -> Any:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        with DIRECT.open(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def learning(setup: Path) -> Iterator[None]:
    """Run `what-next loop` beside the service, in a process of its own; its output is only in the journal."""
    command = [sys.executable, "-c", WITH_PARENT, "loop", str(setup)]
    loop = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        loop.kill()  # in any state: it will not be resumed
        loop.wait()


def free(setup: Setup) -> Setup:
    """The setup, with any free port (0) if its own is in use."""
    try:
        listen(setup).close()
    except SetupError:
        return setup.model_copy(update={"server": setup.server.model_copy(update={"port": 0})})
    return setup
