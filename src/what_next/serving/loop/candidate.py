"""A candidate model: the log that it learns from, its training, and its evaluation on held-out users."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from what_next.agent import Agent
from what_next.data import Catalogue, Dataset
from what_next.environment import Environment, Report
from what_next.errors import CatalogueError, DataError, ModelError, SaveError, some
from what_next.metrics.next_items import Targets, rank
from what_next.off_policy import Learned, LogSettings, gate
from what_next.off_policy.decisions import THRESHOLDS
from what_next.policy import LearnedPolicy
from what_next.serving.engine.live import point
from what_next.serving.engine.versions import AGENT
from what_next.serving.store import Store
from what_next.serving.store.export import Exported, appended, forget_erased
from what_next.settings import Setup, SplitSettings
from what_next.state import State
from what_next.training.artefacts import CRITIC, catalogue_path, critic_beside, read_manifest, resume_path

WHOLE = "log.parquet"
"""The whole log so far, in the loop's folder."""
LEARNED, JUDGING = "learned.parquet", "judging.parquet"
"""Files in the folder of a round: the log of the training users, and of the held-out users."""
OWN_LOG = "the service's own log"
"""What messages call such a file, whose path says nothing."""
VALIDATION = 0.1
"""Share of the training users that is used as validation users, for early stopping."""
ROOM = 2**26
"""Bytes that must be free on the disk, besides the files of a round."""


def check_room(folder: Path, version: Path) -> None:
    """Raise a `SaveError` if the disk has no room for another round."""
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(path.stat().st_size for path in version.iterdir())
    logs = sum(path.stat().st_size for path in folder.glob("*/*.parquet"))
    if (free := shutil.disk_usage(folder).free) < (need := ROOM + 4 * size + 2 * logs):
        raise SaveError(f"{folder}: its disk is full ({free:,} bytes are free, a round needs {need:,}); make room")


def export(setup: Setup, store: Store, deployed: Path, folder: Path) -> dict[str, int]:
    """Write the log in two parts, of training and of held-out users; returns the sizes of both.

    Raises:
        DataError: the log is empty, or a part has no events.
    """
    whole = _whole(store, _catalogue(deployed), folder.parent / WHOLE)
    users, share = whole.users, setup.loop.held_out
    out = users.filter([point(f"held out:{one}") < share for one in users])  # by a hash of the id: always the same ones
    counts = dict[str, int]()
    for name, theirs in ((JUDGING, out), (LEARNED, users.filter(~users.is_in(out.implode())))):
        part = whole.about(theirs)
        if not part.events:
            raise DataError(f"{store.backend.where}: too few users have events to hold some out (loop.held_out)")
        part.write(folder / name)
        what = name.removesuffix(".parquet")
        counts |= {f"{what}_events": part.events, f"{what}_decisions": part.decisions}
        counts[f"{what}_users"] = len(theirs) - part.anonymous
    return counts


def _catalogue(agent: Path) -> Catalogue:
    return Catalogue.from_table(pl.read_parquet(catalogue_path(agent), glob=False))


def _whole(store: Store, catalogue: Catalogue, log: Path) -> Exported:
    """The whole log so far; rows that an earlier round exported are read from its file, not from the store."""
    try:
        found = appended(store, catalogue, log)
    except DataError:  # the file was changed, or is incomplete
        log.unlink(missing_ok=True)
        found = appended(store, catalogue, log)
    found.write(log)
    return found


def forget(store: Store, folder: Path) -> None:
    """Remove erased users from the logs in a loop's folder; a log that cannot be rewritten is deleted.

    An interrupted training on a changed log must start again, so its resume files are deleted.
    """
    for path in (folder / WHOLE, *folder.glob(f"*/{LEARNED}"), *folder.glob(f"*/{JUDGING}")):
        try:
            changed = path.is_file() and forget_erased(store, path)
        except (DataError, SaveError):
            path.unlink()
            continue
        if changed and path.name == LEARNED:
            for resume in path.parent.glob("*.resume.safetensors"):
                resume.unlink()


def settings_of(setup: Setup, folder: Path, number: int, fresh: bool) -> Setup:
    """The setup with which the candidate of a round is trained."""
    loop = setup.loop
    values: dict[str, Any] = {
        "train": True,
        "data": folder / LEARNED,
        "model_agent_path": folder / AGENT,
        "model_critic_path": folder / CRITIC if setup.model_critic_path else None,
        "log": None,
        "seed": setup.seed + number,
        "split": SplitSettings(test=0, validation=VALIDATION),  # the held-out users are not in this log
        "seconds": min(loop.seconds, setup.seconds or loop.seconds),
        "threads": loop.threads,
        "refit": "no",
    }
    if not fresh and loop.passes is not None:
        values["passes"] = loop.passes
    return setup.model_copy(update=values)


def unlike(setup: Setup, deployed: Path) -> str | None:
    """Why training cannot start from the deployed model's weights; None if it can."""
    trained, name = read_manifest(deployed, "agent").setup["algorithm"]["name"], setup.algorithm.name
    if trained != name:
        return f"the deployed model is of {trained}, and the setup says {name}"
    if setup.ensemble > 1:
        return "each network of an ensemble starts from its own seed"
    return None


def train(setup: Setup, origin: Path | None) -> Report:
    """Train a candidate from the weights of `origin` or from scratch; an interrupted training is resumed."""
    begun = setup.model_agent_path, setup.members[0].model_agent_path
    resume = any(path.is_file() and resume_path(path).is_file() for path in begun)
    origin = None if resume else origin
    state = State.open(setup, resume=resume, origin=origin)
    environment = Environment(Agent(setup, state.space), state, setup, resume=resume, origin=origin, force=True)
    return environment.train_agent()


def check_catalogue(candidate: Path, deployed: Path) -> None:
    """Raise a `ModelError` if a candidate lacks items of the deployed model, or has other attributes."""
    ours, theirs = _catalogue(candidate), _catalogue(deployed)
    if ours.names != theirs.names:
        raise ModelError(
            f"the candidate is of another catalogue: its items have {some(ours.names) or 'no attributes'}, and those "
            f"of the deployed model {some(theirs.names) or 'none'}"
        )
    missing = theirs.ids.filter(~theirs.ids.cast(pl.String).is_in(ours.ids.cast(pl.String).implode()))
    if len(missing):
        raise ModelError(f"the candidate is of another catalogue: it lacks {some(missing, len(missing))}")


def served(name: str, agent: Path, setup: Setup, threads: int | None = None) -> Learned:
    """A model as it was trained and would be served; `threads`: for its evaluation, None: those of its training."""
    values = {"model_agent_path": agent, "model_critic_path": critic_beside(agent), "train": False, "device": "cpu"}
    trained = read_manifest(agent, "agent").made_by()
    how = {"server": setup.server, "threads": threads or trained.threads}
    return Learned(name, trained.model_copy(update=values | how))


def judge(setup: Setup, log: Path, agents: Mapping[str, Path]) -> dict[str, Any]:
    """Compare a candidate with the deployed model on the held-out users' log: see `off_policy.gate`.

    `agents`: both by version, the candidate first.

    Returns:
        `verdict`: better, worse, undecided, or no evidence; `why`; and the bounds of the difference.
    """
    policies = [served(name, agent, setup, setup.loop.threads) for name, agent in agents.items()]
    try:
        settings = LogSettings(log, top=setup.loop.top)
        found = gate(settings, *policies, estimator=setup.loop.estimator, margin=setup.loop.margin, looks="any")
    except DataError as error:
        return {"verdict": "no evidence", "why": str(error).replace(str(log), OWN_LOG)}
    apart = found["difference"]
    bounds = {name: apart.get(name) for name in ("mean", "low", "high")}
    if found["promote"]:
        verdict = "better"
    elif apart.get("low") is None:
        verdict = "no evidence"
    else:
        verdict = "worse" if apart["high"] < 0 else "undecided"
    why = found["why"].replace(str(log), OWN_LOG)
    if verdict == "no evidence" and (users := found["log"]["units"]) <= THRESHOLDS.ess:
        why = f"{_few(users, setup.loop.held_out)}; {why}"
    return {"verdict": verdict, "why": why, **bounds}


def _few(users: int, share: float) -> str:
    """That too few users are held out, and which setting changes it."""
    return (
        f"{users:,} of the held-out users have decisions that can judge, and more than {THRESHOLDS.ess:g} are needed: "
        f"raise loop.held_out (now {share:g} of all users), or wait for more users"
    )


def brief(why: str) -> str:
    """The first reason of several."""
    first, *more = why.removeprefix("the evidence is refused: ").split("; ")
    return f"{first}; more: what-next loop status SETUP --json" if more else first


def foreseen(setup: Setup, log: Path, agents: Mapping[str, Path]) -> dict[str, float]:
    """NDCG@10 on the last event of each held-out user, by model; a model that cannot be evaluated is left out."""
    dataset, found = Dataset.read(log), dict[str, float]()
    for name, agent in agents.items():
        one = served(name, agent, setup, setup.loop.threads).setup.model_copy(
            update={"split": SplitSettings(name="leave_last_out")}
        )
        try:
            policy = LearnedPolicy.load(one, dataset)
        except CatalogueError:  # the log has items that came after its training
            continue
        targets = Targets.of(dataset, policy.state.split, "test")
        if len(targets):
            ranks = rank(policy, targets, policy.state.histories, seen=setup.evaluation.seen)
            found[name] = float(ranks.ndcg.mean())
    return found


def items_of(agent: Path) -> frozenset[str]:
    """The ids of the items in a model's catalogue."""
    return frozenset(pl.read_parquet(catalogue_path(agent), columns=["item_id"], glob=False)["item_id"].cast(pl.String))


def clear(folder: Path, keep: int) -> None:
    """Remove the folders of all rounds except one."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name.isdecimal() and path.name != str(keep):
            shutil.rmtree(path, ignore_errors=True)
