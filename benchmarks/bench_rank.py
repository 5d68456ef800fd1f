"""Judging: users per second on the whole catalogue, against a bare matrix product with top-k, and against RecTools.

Prints JSON lines. First, made-up vectors: 100,000 users with 50 events each on 50,000 items of 20 attributes; HR,
NDCG and MRR, then all metrics, against `(points @ vectors.T).topk(10)` in the same chunks and the same run. Memory is
the peak of the process. Then ml-1m-part: our judging of each encoder, including reading and encoding of histories,
against `recommend` of RecTools' SASRec of the same width on the same number of threads, in an environment of its own
(see `peers.py`).
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sets
import torch
from bench_peers import run_peer, started

import what_next as wn
from what_next.experiments.evaluator import Evaluator
from what_next.metrics.accuracy import hit_rate, ndcg, reciprocal_rank
from what_next.metrics.beyond import ItemStatistics
from what_next.metrics.next_items import Targets, chunks, rank
from what_next.metrics.windows import Sampling
from what_next.types import History

HEARD, ATTRIBUTES, K = 50, 20, 10
DIM = 64
"""Width of the model that is judged on ml-1m-part, equal to the peer's."""


def tell(**values: object) -> None:
    print(json.dumps({"benchmark": "rank", **values}), flush=True)


class Points:
    """A policy with given points, so that only judging is measured."""

    def __init__(self, points: torch.Tensor, vectors: torch.Tensor) -> None:
        self.points, self.vectors = points, vectors

    def scored(self, history: History, *, allowed: Any = None, exclude: Any = None) -> torch.Tensor:
        scores = self.points[torch.from_numpy(history.users).long()] @ self.vectors.T
        rows, places = np.nonzero(exclude >= 0)
        scores[torch.from_numpy(rows), torch.from_numpy(exclude[rows, places]).long()] = -torch.inf
        return scores


def made_up(users: int, items: int, dim: int) -> tuple[Points, Evaluator]:
    rng = np.random.default_rng(0)
    heard = (items * rng.random((users, HEARD + 1), dtype=np.float32) ** 3).astype(np.int32)
    latest = History(
        users=np.arange(users, dtype=np.int32),
        items=heard[:, :HEARD],
        lengths=np.full(users, HEARD),
        rewards=np.zeros((users, HEARD), np.float32),
        context=np.zeros((users, HEARD, 0), np.float32),
        sigma=np.ones(users, np.float32),
    )

    def histories(some: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> History:
        rows = slice(None) if len(some) == users else some
        parts = (latest.users, latest.items, latest.lengths, latest.rewards, latest.context, latest.sigma)
        return History(*(part[rows] for part in parts))

    vectors = rng.normal(size=(items, ATTRIBUTES)).astype(np.float32)
    categories = (rng.random((items, ATTRIBUTES)) < 0.1).astype(np.float32)
    categories /= np.maximum(categories.sum(axis=1, keepdims=True), 1)
    counts = np.bincount(heard[:, :HEARD].ravel(), minlength=items)
    targets = Targets(latest.users, latest.lengths, heard[:, HEARD], None, catalogue=items)
    background = ItemStatistics(counts, vectors, categories)
    policy = Points(torch.randn(users, dim), torch.randn(items, dim))
    return policy, Evaluator(targets, histories, background, (Sampling(vectors), latest), ks=(K,))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def engine(users: int, items: int, dim: int, repeats: int) -> None:
    policy, evaluator = made_up(users, items, dim)

    def bare() -> None:
        for rows in chunks(evaluator.targets):
            (policy.points[torch.from_numpy(rows)] @ policy.vectors.T).topk(K)

    def accuracy() -> None:
        places = rank(policy, evaluator.targets, evaluator.histories, K).places
        for metric in (hit_rate, ndcg, reciprocal_rank):
            metric(places, K)

    def everything() -> None:
        fresh = replace(evaluator)  # without its caches of histories and popular items
        fresh.means({"": fresh.score([policy])})

    taken = {work.__name__: [] for work in (bare, accuracy, everything)}
    for _ in range(repeats):
        for work in (bare, accuracy, everything):
            taken[work.__name__].append(timed(work))
    seconds = {name: float(np.median(values)) for name, values in taken.items()}
    tell(
        users=users,
        items=items,
        dim=dim,
        threads=torch.get_num_threads(),
        bare_seconds=round(seconds["bare"], 2),
        accuracy_ratio=round(seconds["accuracy"] / seconds["bare"], 2),
        all_metrics_ratio=round(seconds["everything"] / seconds["bare"], 2),
        users_per_s=round(users / seconds["everything"]),
        peak_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    )


def beside_rectools(threads: int, folder: Path, repeats: int) -> None:
    dataset = sets.read("ml-1m-part", folder)
    theirs = run_peer("rectools", dataset, 1, threads)
    peer = None if theirs is None else theirs["users_per_s"]
    for encoder in ("lstm", "gru", "mean"):
        environment = started(dataset, threads, dim=DIM, model=encoder)
        state, policy = environment.state, wn.LearnedPolicy(environment.agent.eval(), environment.state)
        targets = Targets.of(state.dataset, state.split, "test")
        work = partial(rank, policy, targets, state.histories)
        seconds = [timed(work) for _ in range(repeats + 1)][1:]
        rate = len(targets) / float(np.median(seconds))
        common = {"data": "ml-1m-part", "encoder": encoder, "dim": DIM, "threads": threads, "users_per_s": round(rate)}
        tell(**common, rectools_users_per_s=peer and round(peer), ratio=peer and round(rate / peer, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=sets.FOLDER)
    parser.add_argument("--no-peer", action="store_true", help="only the made-up vectors")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine(arguments.users, arguments.items, arguments.dim, arguments.repeats)
    if not arguments.no_peer:
        beside_rectools(arguments.threads, arguments.folder, arguments.repeats)


if __name__ == "__main__":
    main()
