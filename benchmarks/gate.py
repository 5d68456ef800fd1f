"""The estimate of a model from another model's served log, and its true reward. Prints JSON lines; minutes.

A `next_item` trained on 3,000 histories of ml-100k serves, and one trained on 25,000 is judged. Each user's last 30
events are held out from both: a shown item that is among them earns 1. The truth comes from the same service with the
other model, on other draws.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import sets

from what_next import Agent, Environment, Setup, State
from what_next.data import Options, import_files, save
from what_next.errors import WhatNextError
from what_next.off_policy import Learned, LogSettings, gate
from what_next.serving.bodies import Question
from what_next.serving.engine import Engine
from what_next.serving.request import RecommendationResponse
from what_next.serving.store import AddEvents, AddFeedback, EventRow, Store, Writer
from what_next.serving.store.export import exported

KEPT = 30
MODELS = {"current": 3_000, "new": 25_000}
SETUP = """train, yes
data, log.parquet
algorithm, next_item
inputs.items, learned
threads, 1
epochs, {epochs}
model_agent_path, {name}.safetensors
model_critic_path, {name}.critic.safetensors
server.deadline, 60000
"""


def made(folder: Path, data: Path) -> tuple[pl.DataFrame, Mapping[str, set[str]]]:
    """Train both models; returns their training events, and the held-out items by user."""
    log, items = sets.ml_100k(data)
    log = log.sort("user_id", "timestamp").with_columns(
        left=pl.len().over("user_id") - pl.int_range(pl.len()).over("user_id")
    )
    known, later = log.filter(pl.col("left") > KEPT).drop("left"), log.filter(pl.col("left") <= KEPT)
    known.write_parquet(folder / "raw.parquet")
    items.write_parquet(folder / "items.parquet")
    save(import_files([folder / "raw.parquet"], folder / "items.parquet", Options()), folder / "log.parquet")
    for name, epochs in MODELS.items():
        (folder / f"{name}.txt").write_text(SETUP.format(name=name, epochs=epochs))
        setup = Setup.read(folder / f"{name}.txt")
        state = State.from_setup(setup)
        Environment(Agent(setup, state.space), state, setup).train_agent()
    wanted = later.group_by("user_id").agg(pl.col("item_id").cast(pl.String))
    return known, {str(user): set(found) for user, found in wanted.iter_rows()}


def serve(
    setup: Setup, known: pl.DataFrame, later: Mapping[str, set[str]], count: int, k: int, seed: int, log: Path
) -> float:
    """Answer `count` requests in turn, log them, and return the mean reward of an answer."""
    store = Store.open(log.with_suffix(".sqlite"))
    writer = Writer(store)
    engine = Engine(setup, store, writer, None)
    rows = known.select(pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String), "timestamp").iter_rows()
    events = tuple(
        EventRow(f"e{one}", user, item, time=int(time) * 10**6) for one, (user, item, time) in enumerate(rows)
    )
    for start in range(0, len(events), 1000):
        store.commit([AddEvents(events[start : start + 1000])])
    users = [str(user) for user in known["user_id"].unique(maintain_order=True)]

    async def ask(first: int) -> list[RecommendationResponse]:
        some = range(first, min(first + 64, count))
        questions = [Question(user_id=users[one % len(users)], k=k, seed=seed * count + one) for one in some]
        found = await engine.recommend_all([(question, None) for question in questions])
        return [one for one in found if isinstance(one, RecommendationResponse)]

    earned = 0
    for first in range(0, count, 64):
        told = [
            AddFeedback(f"f{first}-{place}-{item}", answer.recommendation_id, item, 1.0)
            for place, answer in enumerate(asyncio.run(ask(first)))
            for item in answer.ids
            if item in later.get(users[(first + place) % len(users)], ())
        ]
        earned += len(told)
        store.commit(told)
    exported(store, engine.models.live.current.served.catalogue).write(log)
    engine.close()
    writer.close()
    store.close()
    return earned / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=sets.FOLDER / "ml-100k", help="the folder of ml-100k")
    parser.add_argument("--decisions", type=int, default=20_000, help="rows of each log")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 10], help="lengths of the slates")
    parser.add_argument("--how", nargs="+", default=["temperature=1", "temperature=0.5", "epsilon=0.1"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        known, later = made(folder, asked.data)
        for how in asked.how:
            for k in asked.k:
                served = {name: Setup.read(folder / f"{name}.txt", ["train=no", f"server.{how}"]) for name in MODELS}
                paths = {name: folder / f"{name}-{how}-{k}.parquet" for name in MODELS}
                count = asked.decisions // k
                earned = {
                    name: serve(served[name], known, later, count, k, seed, paths[name])
                    for seed, name in enumerate(MODELS)
                }
                judged = {name: Learned(name, setup) for name, setup in served.items()}
                for estimator in ("snips",) if k == 1 else ("cascade_snips", "cascade_dr", "slate_snips"):
                    line = {"how": how, "k": k, "answers": count, "earned": earned, "estimator": estimator}
                    try:
                        found = gate(
                            LogSettings(paths["current"]), judged["new"], judged["current"], estimator=estimator
                        )
                        new = found["new"]["estimate"]
                        line |= {
                            "ess": new["ess"],
                            "difference": found["difference"],
                            "promote": found["promote"],
                            "why": found["why"],
                        }
                    except WhatNextError as error:
                        line |= {"why": str(error)}
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
