"""Approximate search beside exact: recall and speed-up at 1,000,000 items of dim 64, one query at a time.

Prints JSON lines. The vectors are trained by our own model (sampled softmax, sparse rows) on a made-up log
of a fixed seed, for a fixed number of steps: 3,000 take four minutes of one thread, most of this run. In the log, users
walk from topic to topic, mostly to near ones, and popularity within a topic falls by a power law. The queries are the
trained actor's points for histories of held-out users. As a check of the training, a line gives how often their next
item is among the exact top 100, and among the 100 most popular items.

`--drawn` skips the training, for catalogues that take long to learn: vectors are drawn with the structure of trained
ones. Half of the items have the direction of their topic, similar for near topics, plus a direction of their own, with
unequal lengths; the others have initial values. Points lie between near topics.

Exact search is the faster of two: PyTorch's matrix-vector product with top-k, and faiss's scan. Exact search and the
index alternate on each query, so that other work on the machine affects both; the speed-up is given in elapsed time,
and in processor time, which depends little on other programs.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import torch
from rates import median_seconds

import what_next as wn
from what_next.retrieval.approximate import ApproximateIndex
from what_next.sources import source_of

LENGTH, DIM = 100, 64
"""Events of a user, and entries of a vector."""
COUNT = 100

Search = Callable[[np.ndarray], np.ndarray]


def tell(part: str, **values: object) -> None:
    print(json.dumps({"benchmark": "search", "part": part, **values}), flush=True)


def walks(items: int, users: int, seed: int) -> np.ndarray:
    """Histories: walks of users over a ring of topics of unequal size."""
    rng = np.random.default_rng(seed)
    topics = max(20, items // 500)
    sizes = rng.pareto(1.5, topics) + 1
    sizes = np.maximum(1, items * sizes / sizes.sum()).astype(np.int64)
    sizes[np.argmax(sizes)] += items - sizes.sum()
    starts = np.cumsum(sizes) - sizes
    heard = np.empty((users, LENGTH), np.int64)
    topic = rng.integers(topics, size=users)
    for step in range(LENGTH):
        kind = rng.random(users)
        near = (topic + np.rint(rng.normal(0, 3, users)).astype(np.int64)) % topics
        topic = np.where(kind < 0.7, topic, np.where(kind < 0.95, near, rng.integers(topics, size=users)))
        heard[:, step] = starts[topic] + (sizes[topic] * rng.random(users) ** 2.5).astype(np.int64)
    return rng.permutation(items).astype(np.int32)[heard]


def log_of(heard: np.ndarray, items: int) -> wn.Dataset:
    users = len(heard)
    ids = pl.Series(np.arange(items))
    return wn.Dataset(
        name="made up",
        user_ids=pl.Series("user_id", np.arange(users)),
        items=heard.ravel(),
        offsets=np.arange(0, users * LENGTH + 1, LENGTH),
        timestamps=None,
        rewards=None,
        context=np.zeros((users * LENGTH, 0), np.float32),
        context_names=(),
        catalogue=wn.Catalogue.from_table(pl.DataFrame({"item_id": ids, "title": ids.cast(pl.String)})),
    )


def trained(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of the items, points of held-out histories, and the item that came next in each."""
    heard = walks(arguments.items, arguments.users, arguments.seed)
    setup = wn.Setup(
        train=True,
        data=Path("log.parquet"),
        algorithm="next_item",
        loss={"name": "sampled_softmax", "negatives": 1024},
        split={"name": "users", "test": 0.02, "validation": 0.0},
        model=arguments.model,
        dim=DIM,
        max_length=LENGTH,
        batch_size=arguments.batch,
        epochs=arguments.steps * arguments.batch,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        model_agent_path="agent",
        model_critic_path="critic",
    )
    state = wn.State(log_of(heard, arguments.items), setup)
    agent, rng = wn.Agent(setup, state.space).wake_agent(), np.random.default_rng(arguments.seed)
    source, policy = source_of(state), wn.LearnedPolicy(agent, state)
    start, losses, targets = time.perf_counter(), [], 0
    for _ in range(arguments.steps):
        step = agent.propagate(source.next_batch(policy, rng), rng)
        losses.append(step.losses["actor"])
        targets += step.targets
    seconds = time.perf_counter() - start
    users = np.setdiff1d(np.arange(arguments.users), state.train_users)[: arguments.queries].astype(np.int32)
    known = np.full(len(users), LENGTH - 1)
    proposal = agent.eval().predict(state.histories(users, np.zeros_like(known), known))
    assert proposal.ranked is not None
    vectors, popular = proposal.ranked.vectors.detach().numpy(), np.bincount(heard.ravel()).argsort()[-COUNT:]
    tell(
        "training",
        items=arguments.items,
        dim=DIM,
        events=heard.size,
        model=arguments.model,
        steps=arguments.steps,
        targets=targets,
        seconds=round(seconds),
        loss=[round(statistics.mean(some), 2) for some in (losses[:20], losses[-20:])],
        lengths=lengths_of(vectors),
        next_is_popular=round(float(np.isin(heard[users, -1], popular).mean()), 3),
    )
    return vectors, proposal.points, heard[users, -1]


def drawn(items: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and points like trained ones, drawn in chunks, because float64 would need twice the memory."""
    rng, topics = np.random.default_rng(seed), max(20, items // 500)
    steps = rng.normal(size=(topics, DIM))
    for topic in range(1, topics):
        steps[topic] = 0.9 * steps[topic - 1] + 0.19**0.5 * steps[topic]
    centres = (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float32)
    sizes = np.cumsum(rng.pareto(1.5, topics) + 1)
    vectors = np.empty((items, DIM), np.float32)
    for start in range(0, items, 2**17):
        block = rng.standard_normal((min(2**17, items - start), DIM), np.float32) / np.float32(DIM**0.5)
        learned = np.flatnonzero(rng.random(len(block)) < 0.5)
        topic = np.searchsorted(sizes, rng.random(len(learned)) * sizes[-1], side="right")
        found = centres[topic] + np.float32(0.8) * block[learned]
        lengths = np.exp(rng.normal(0.5, 0.35, (len(learned), 1))).astype(np.float32)
        block[learned] = found / np.linalg.norm(found, axis=1, keepdims=True) * lengths
        vectors[start : start + len(block)] = block
    topic = np.searchsorted(sizes, rng.random(queries) * sizes[-1], side="right")
    near = (topic[:, None] + np.rint(rng.normal(0, 3, (queries, 3)) * [0, 1, 1]).astype(np.int64)) % topics
    points = centres[near].mean(1) + rng.normal(0, 0.5 * DIM**-0.5, (queries, DIM))
    return vectors, (6 * points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def lengths_of(vectors: np.ndarray) -> list[float]:
    """The shortest, median and longest length."""
    return [round(float(length), 2) for length in np.quantile(np.linalg.norm(vectors, axis=1), (0, 0.5, 1))]


def in_turn(searches: dict[str, Search], points: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Alternating on each query: median elapsed and processor seconds of each search, and its results."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
    found: dict[str, list[np.ndarray]] = {name: [] for name in searches}
    for point in points:
        for name, search in searches.items():
            start, busy = time.perf_counter(), time.thread_time()
            items = search(point)
            seconds[name].append((time.perf_counter() - start, time.thread_time() - busy))
            found[name].append(np.asarray(items).ravel())
    medians = {name: np.median(some, axis=0) for name, some in seconds.items()}
    return medians, {name: np.stack(some) for name, some in found.items()}


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    shares = [len(np.intersect1d(*pair)) / truth.shape[1] for pair in zip(found, truth, strict=True)]
    return round(float(np.mean(shares)), 4)


def compare(vectors: np.ndarray, points: np.ndarray, following: np.ndarray | None, threads: int) -> None:
    before, start, busy = resident(), time.perf_counter(), time.process_time()
    index = ApproximateIndex.of(vectors, threads=threads)
    tell(
        "building",
        seconds=round(time.perf_counter() - start, 1),
        cpu_s=round(time.process_time() - busy, 1),
        threads=threads,
        lists=0 if index.lists is None else index.lists.inverted.nlist,
        index_mb=round((resident() - before) / 1e6),
        vectors_mb=round(vectors.nbytes / 1e6),
    )
    table, flat = torch.from_numpy(vectors), faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    searches: dict[str, Search] = {
        "torch": lambda point: (table @ torch.from_numpy(point)).topk(COUNT).indices.numpy(),
        "faiss": lambda point: flat.search(point[None], COUNT)[1],
        "index": lambda point: index.search(point[None], COUNT),
    }
    seconds, found = in_turn(searches, points)
    exact = min(("torch", "faiss"), key=lambda name: seconds[name][0])
    gain = seconds[exact] / seconds["index"]
    came = {} if following is None else {name: found[name] == following[:, None] for name in found}
    tell(
        "search",
        queries=len(points),
        exact_by=exact,
        exact_ms={name: round(1000 * seconds[name][0], 3) for name in ("torch", "faiss")},
        index_ms=round(1000 * seconds["index"][0], 3),
        speed_up=round(gain[0], 1),
        speed_up_of_processor=round(gain[1], 1),
        recall_100=recall(found["index"], found["torch"]),
        recall_10=recall(found["index"][:, :10], found["torch"][:, :10]),
        lengths_of_found=lengths_of(vectors[np.unique(found["torch"])]),
        next_is_found={name: round(float(hits.any(1).mean()), 3) for name, hits in came.items()},
        peak_mb=round(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6),
    )


def resident() -> int:
    """Resident memory of the process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", choices=("mean", "lstm", "gru"), default="mean")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of training and building; a search has one")
    parser.add_argument("--drawn", action="store_true", help="drawn vectors instead of trained ones")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.drawn:
        (vectors, points), following = drawn(arguments.items, arguments.queries, arguments.seed), None
    else:
        vectors, points, following = trained(arguments)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    compare(vectors, points, following, arguments.threads)
    table = torch.ones(2**28)  # 1 GiB, to flush the caches
    rate = table.numel() * 4 / median_seconds(table.sum, 5)
    tell("machine", torch=torch.__version__, faiss=faiss.__version__, read_gb_per_s=round(rate / 1e9, 1))


if __name__ == "__main__":
    main()
