"""Several processes share a batch: they learn what one does, send what gradients need, and survive one another."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from what_next import Agent, Setup, State
from what_next.errors import SetupError
from what_next.policy import LearnedPolicy
from what_next.training import validation
from what_next.training.artefacts import read_manifest
from what_next.training.distributed import Ranks
from what_next.types import Batch, Factors, Impressions

from .forked import FORKING
from .together import COMPLETE, FIXED, SAMPLED, SHARDED, Runs, complete, dataset, train, worker

STEPS = 25
RUNS: Runs = {
    "next_item": ({"algorithm": {"name": "next_item"}}, STEPS),
    "whatnext": ({"algorithm": {"name": "whatnext"}}, STEPS),
    "sparse": ({"algorithm": {"name": "next_item"}, **SAMPLED}, STEPS),
    "sharded": (SHARDED, STEPS),
    "sharded_gbce": ({**SHARDED, "loss": {"name": "gbce", "negatives": 16}}, 6),
    # Each is no plain mean over steps, or draws for each step.
    "cql": ({"algorithm": {"name": "cql"}, "loss": {"name": "gbce", "negatives": 16}}, 6),
    "decision_transformer": ({"algorithm": {"name": "decision_transformer"}}, 6),
    "reinforce": ({"algorithm": {"name": "reinforce", "baseline": "mean"}}, 6),
    "snqn": ({"algorithm": {"name": "snqn"}}, 6),
    "td3_bc": ({"algorithm": {"name": "td3_bc"}}, 6),
}


def together(count: int, runs: Runs, folder: Path) -> list[dict[str, Any]]:
    """What each of some processes found."""
    torch.multiprocessing.start_processes(
        worker, (count, runs, folder), nprocs=count, start_method=FORKING.get_start_method()
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return train(RUNS, tmp_path_factory.mktemp("alone"), Ranks())


@pytest.mark.medium
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_learn_what_one_does(count: int, alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    several = together(count, RUNS, tmp_path)
    for name, one in alone.items():
        for others in several:
            assert others[name]["losses"] == several[0][name]["losses"]
            assert others[name]["weights"] == several[0][name]["weights"], f"{name}: weights came apart"
            assert others[name]["targets"] == one["targets"]
        for mine, shared in zip(one["losses"], several[0][name]["losses"], strict=True):
            assert shared == pytest.approx(mine, rel=1e-5), name
        assert several[0][name]["rewards"] == pytest.approx(one["rewards"], rel=1e-5)
    for name in ("next_item", "whatnext"):
        numbers = len(several[0][name]["losses"][0]) + 3  # and the mean reward, the mean value, the batch's checksum
        assert several[0][name]["sent"] == STEPS * (several[0][name]["needed"] + 4 * numbers)
        assert alone[name]["sent"] == 0
    # Of the item vectors, rows alone: 40 items of 8 numbers, and what a step touches is hardly ever all of it.
    assert several[0]["sparse"]["needed"] < several[0]["next_item"]["needed"]

    if count == 2:
        check_complete(several, tmp_path)


def check_complete(several: list[dict[str, Any]], folder: Path) -> None:
    """Sharded tables are saved whole, go on bit for bit, and all was validated as one process would."""
    one, other = (several[rank]["complete"] for rank in range(2))
    assert one == other
    assert not any(run["stopped"] for run in one.values())
    assert one["broken"]["steps"] == one["whole"]["steps"] - 5
    for part in ("agent", "agent.resume"):
        files = [load_file(folder / name / f"{part}.safetensors") for name in ("whole", "broken")]
        assert files[0].keys() == files[1].keys()
        assert all(np.array_equal(files[0][key], files[1][key]) for key in files[0])
    assert load_file(folder / "whole/agent.safetensors")["encoder.items.learned"].shape == (40, 8)
    check_ensemble(one, folder)
    for name in COMPLETE:
        setup = read_manifest(folder / name / "agent.safetensors").made_by()
        state = State(dataset(), setup)
        judged = LearnedPolicy(Agent(setup, state.space).ready_agent(), state), state.dataset, state.split
        assert validation.next_items(*judged, state.histories, seed=0) == one[name]["valid"], name


def check_ensemble(found: dict[str, Any], folder: Path) -> None:
    """Each process trains networks of an ensemble by itself; what they become is what one process makes of them."""
    (folder / "alone").mkdir()
    alone = complete(folder / "alone", Ranks(), ["ensemble"])["ensemble"]
    assert found["ensemble"] == alone
    expected = load_file(folder / "alone/ensemble/agent.safetensors")
    for name in ("ensemble", "ensemble_broken"):
        weights = load_file(folder / name / "agent.safetensors")
        assert weights.keys() == expected.keys()
        assert all(np.array_equal(weights[key], expected[key]) for key in expected), name
    assert not list(folder.rglob("*member*"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no graphics card")
def test_gradients_are_summed_on_a_graphics_card(tmp_path: Path) -> None:
    runs = {"next_item": ({"algorithm": {"name": "next_item"}, "device": "cuda"}, 10)}
    (found,) = together(1, runs, tmp_path)
    expected = train(runs, tmp_path, Ranks())
    for mine, shared in zip(expected["next_item"]["losses"], found["next_item"]["losses"], strict=True):
        assert shared == pytest.approx(mine, rel=1e-5)
    assert found["next_item"]["sent"] > 0


def batch(rows: int, width: int = 4, impressions: Impressions | None = None) -> Batch:
    """Of rows that have 1 to `width` steps."""
    items = np.where(np.arange(width) <= np.arange(rows)[:, None] % width, np.arange(rows)[:, None], -1)
    items = items.astype(np.int32)
    numbers, none = np.zeros((rows, width, 0), np.float32), np.zeros((rows, width, 0, 0), np.float32)
    zeros = np.zeros((rows, width), np.float32)
    return Batch(items, Factors(numbers, none, numbers), items, zeros, items >= 0, zeros, rows, impressions=impressions)


class TestParts:
    @pytest.mark.parametrize(("rows", "count"), [(9, 1), (9, 2), (9, 4), (3, 4), (1, 3)])
    def test_every_step_is_in_one_part_and_their_weights_are_its_share(self, rows: int, count: int) -> None:
        whole = batch(rows)
        steps = np.nonzero(whole.mask)[0]
        parts = [Ranks(rank, count, joined=True).part(whole, steps, (0, 0)) for rank in range(count)]
        held = [part.steps for part in parts if part is not None and part.weight]
        assert np.concatenate(held).tolist() == list(range(len(steps)))
        assert sum(part.weight for part in parts if part is not None) == pytest.approx(1)
        for part in parts:
            assert part is not None
            assert whole.rows(part.rows).mask.sum() == len(part.steps)

    def test_an_answer_and_the_one_that_follows_stay_together(self) -> None:
        def several(*values: int) -> np.ndarray:
            return np.array(values, np.int64)

        # States 0, 5, 8, 15 lie in rows 0, 1, 2, 3 of width 4; what follows the one in row 1 stands in row 2.
        places, following = several(0, 5, 8, 15), several(0, 8, 8, 15)
        ones, items = np.ones(4, np.float32), np.arange(4, dtype=np.int32)
        shown = Impressions(
            places, following, items, ones, ones, ones, items, ones, ones.astype(np.float64), ones, ones
        )
        whole = batch(4, impressions=shown)
        parts = [Ranks(rank, 2, joined=True).part(whole, places // 4, (0, 0)) for rank in range(2)]
        assert [part and (part.rows.start, part.rows.stop) for part in parts] == [(0, 3), (3, 4)]
        assert parts[0] is not None
        kept = whole.rows(parts[0].rows).impressions
        assert kept is not None
        assert (kept.places.tolist(), kept.following.tolist()) == ([0, 5, 8], [0, 8, 8])
        last = whole.rows(slice(3, 4)).impressions
        assert last is not None
        assert (last.places.tolist(), last.actions.tolist()) == ([3], [3])

    def test_one_process_has_no_part(self) -> None:
        assert Ranks().part(batch(3), np.zeros(1, np.int64), (0, 0)) is None
        Ranks().agree({"anything": 1})


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"algorithm": {"name": "sqn"}}, "sqn has a target network with vectors of its own; take next_item"),
        ({"loss": {"name": "softmax"}}, "the loss looks at all items; set loss=sampled_softmax"),
        ({"linear": "yes"}, "the linear model beside the encoder has a table of its own; set linear=no"),
        ({"inputs": {"items": "both"}}, "vectors are made of attributes; set inputs.items=learned"),
        ({"algorithm": {"name": "whatnext"}, "loss": {}, "linear": "yes"}, "whatnext learns no vectors of items here"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    paths = {f"model_{one}_path": tmp_path / f"{one}.safetensors" for one in ("agent", "critic")}
    setup = Setup(**{"data": tmp_path / "none", **FIXED, **SHARDED, **paths, **more})
    agent = Agent(setup, State(dataset(), setup).space)
    agent.ranks = Ranks(0, 2, joined=True)
    with pytest.raises(SetupError, match=re.escape(told)):
        agent.wake_agent()


# Processes as torchrun starts them

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment(folder: Path) -> dict[str, str]:
    """With `folder` for what `torchrun` leaves among temporary files."""
    source = Path(__file__).resolve().parents[1] / "src"
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(source), "TMPDIR": str(folder)}


def arguments(folder: Path, log_file: Path, *more: str) -> list[str]:
    setup = folder / "setup.txt"
    setup.write_text(
        f"train, yes\nmodel, lstm\ndata, {log_file}\nepochs, 1\nmodel_agent_path, agent.safetensors\n"
        "model_critic_path, critic.safetensors\nalgorithm, next_item\ndim, 8\nbatch_size, 8\npasses, 30\n"
        "patience, none\nsave_every, 100\nlinear, no\n"
    )
    return ["train", str(setup), "--json", *more]


@pytest.mark.medium
def test_processes_that_disagree_are_told_so_once(log_file: Path, tmp_path: Path) -> None:
    words = " ".join(arguments(tmp_path, log_file))
    command = f"{sys.executable} -m what_next {words} dim=$((8 + RANK)); echo $? > {tmp_path}/code$RANK"
    done = subprocess.run(
        [*RUN, "--no-python", "bash", "-c", command], capture_output=True, text=True, env=environment(tmp_path)
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("what-next:")]
    assert told == [
        "what-next: process 1 of 2 has another dim than the first; start all of them with the same setup, data and "
        "release"
    ]
    assert [(tmp_path / f"code{rank}").read_text().strip() for rank in range(2)] == ["2", "2"], done.stderr
    assert not (tmp_path / "agent.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [1, 2])
def test_a_killed_process_is_replaced_and_the_run_ends_as_if_none_had_been(
    log_file: Path, tmp_path: Path, ensemble: int
) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        folder.mkdir()
        words = arguments(folder, log_file, f"ensemble={ensemble}")
        words = [*RUN, "--max-restarts", "1", "-m", "what_next", *words]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(folder)
        )

    def steps(folder: Path) -> int:
        return sum(len(log.read_text().splitlines()) for log in folder.glob("agent*.jsonl"))

    whole = start(tmp_path / "whole")
    report = json.loads(whole.communicate()[0])
    assert (report["ranks"], report["stopped"]) == (2, False)
    assert (report["bytes_per_step"] > 0) == (ensemble == 1)
    broken = start(tmp_path / "broken")
    while steps(tmp_path / "broken") < 90:
        assert broken.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{broken.pid}/task/{broken.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    out, err = broken.communicate()
    assert broken.returncode == 0, err
    assert ensemble > 1 or re.search("what-next: process 0 of 2 lost another one", err)
    told = [int(number.replace(",", "")) for number in re.findall(r"training ([\d,]+) of", err)]
    assert told == sorted(told), "it goes on where it last saved, less than a tenth before, and not from its start"
    assert len(told) >= 10
    assert json.loads(out)["histories"] == report["histories"]
    for name in ("agent", "critic"):
        one, other = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "broken"))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
