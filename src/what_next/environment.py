"""Environment: the only place with a training loop."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from what_next.agent import Agent
from what_next.algorithms.base import Networks
from what_next.baselines.counts import Known
from what_next.data.cooccurrence import directions
from what_next.data.files import alone, check_paths
from what_next.data.splits import ON, More
from what_next.data.stages import draws
from what_next.errors import DataError, Lines, Plain, SaveError, SetupError, counted
from what_next.inference.recommendation import Recommendation
from what_next.inference.recommender import Recommender
from what_next.models.encoders import Encoder
from what_next.models.ensemble import join, joinable
from what_next.models.linear import ranks_of
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.sources import SOURCES, LogSource, Mixture, Source, source_in, source_of, state_in, world_of
from what_next.state import State
from what_next.training import checkpoint, validation
from what_next.training.artefacts import read_manifest, read_models, remove_models, to_resume
from what_next.training.boards import Board, board_of
from what_next.training.boards import check as check_board
from what_next.training.card import card_path, people
from what_next.training.distributed import Ranks
from what_next.training.encoder_learner import EncoderLearner
from what_next.training.interrupts import Interrupts
from what_next.training.monitor import Monitor
from what_next.training.refit import Recipe, due, first_share, lacking, planned, recipes_in, refit_on
from what_next.training.sharding import whole
from what_next.training.step import OutOfTime, Step
from what_next.training.tracking import Tracker
from what_next.training.weighing import Weighed, recent_of, transitions_of, weigh
from what_next.types import Batch, Policy, Proposal
from what_next.worlds import World


@dataclass(frozen=True)
class Report:
    """The outcome of `Environment.run_sim`.

    Attributes:
        histories: user histories trained on; `targets`: their steps that counted; `seconds`: training time. All three
            include the part of a resumed run before it was resumed.
        steps: the result of each step of this run; empty for inference.
        valid: the measures on the validation users, which training never saw: see `Environment.validate`.
        refit: the events that a second training added (`refit`), after `valid` was measured; None if there was none.
        saved: paths of the models.
        recommendations: of inference; empty for training.
        passes: the histories, counted in passes over the training users.
        alarms: signs that learning has gone wrong (`monitor.Alarms`); `unit`: the word for what `histories` counts.
        ranks: processes that shared the batches; `bytes_per_step`: bytes that each of them sent per step, on average.
        stopped: training was interrupted before its end and can be resumed.
        interrupted: Ctrl-C or `on_step` interrupted it, possibly only in the last save (then not `stopped`). No further
            training should follow.
        idle: a resumed run had nothing left to do.
    """

    histories: int
    targets: int = 0
    seconds: float = 0.0
    steps: tuple[Step, ...] = field(default=(), repr=False)
    valid: dict[str, float] | None = None
    saved: tuple[Path, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    passes: float = 0.0
    alarms: tuple[str, ...] = ()
    unit: str = "histories"
    ranks: int = 1
    bytes_per_step: int = 0
    stopped: bool = False
    interrupted: bool = False
    idle: bool = False
    refit: More | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON that `what-next run` and `train` print with `--json`."""
        if self.recommendations:
            return {"recommendations": [asdict(one) for one in self.recommendations]}
        return {
            "histories": self.histories,
            "passes": round(self.passes, 3),
            "targets": self.targets,
            "seconds": round(self.seconds, 3),
            "targets_per_s": round(self.targets / self.seconds, 1) if self.seconds else None,
            "valid": self.valid,
            "refit": self.refit,
            "saved": [str(path) for path in self.saved],
            "alarms": list(self.alarms),
            "ranks": self.ranks,
            "bytes_per_step": self.bytes_per_step,
            "stopped": self.stopped,
        }

    def __rich__(self) -> RenderableType:
        """A few lines for people."""
        if self.recommendations:
            return Group(*self.recommendations)
        passes = f" ({self.passes:.1f} passes over the training users)" if self.passes else ""
        trained = f"trained on {self.histories:,} {self.unit}{passes}"
        lines = [f"{trained}; {self.targets:,} targets in {self.seconds:.0f} s"]
        if self.ranks > 1:
            sent = f", each of which sent {self.bytes_per_step:,} bytes in a step" if self.bytes_per_step else ""
            lines.append(f"by {self.ranks} processes{sent}")
        if self.steps:
            last = self.steps[-max(1, len(self.steps) // 10) :]
            reward, fallback = (
                sum(getattr(step, name) for step in last) / len(last) for name in ("reward", "fallback")
            )
            if len({step.reward for step in self.steps}) > 1:  # a constant reward says nothing
                lines.append(f"last tenth of training: reward {reward:+.4f}, fallbacks {fallback:.1%}")
        if self.valid:
            measured = ", ".join(f"{name} {value:.4g}" for name, value in self.valid.items() if name != "users")
            lines.append(f"on {people(self.valid)}, by events that training never saw: {measured}")
        if self.refit:
            lines.append(f"then trained a second time, on {ON[self.refit]}")
        lines += [f"ALARM {alarm}" for alarm in self.alarms]
        lines += [f"saved {path}" for path in self.saved]
        return Text("\n".join(lines))


class Environment:
    """Runs an agent against a state as its setup says.

    Attributes:
        agent, state, setup: the arguments; `source`: makes the batches.
        resume: continue from the last save instead of from the start.
        origin: path of an agent whose weights training starts from.
        force: overwrite models of another algorithm or of other data.
        ranks: the processes that train together (`training.distributed`).
        on_step: called with each step of training; if it returns True, training ends as by Ctrl-C.
        on_save: called after each save with the measures on the validation users.
        quiet: print nothing during training.
        rng: the source of all random numbers of the loop.
    """

    def __init__(
        self,
        agent: Agent,
        state: State,
        setup: Setup,
        *,
        source: Source | None = None,
        resume: bool = False,
        origin: Path | None = None,
        force: bool = False,
        ranks: Ranks | None = None,
        on_step: Callable[[Step], object] | None = None,
        on_save: Callable[[dict[str, float]], object] | None = None,
        quiet: bool = False,
    ) -> None:
        """Without a `source`, the one that the setup's algorithm learns from is used."""
        self.agent, self.state, self.setup = agent, state, setup
        self.source, self.given = source or source_of(state), source
        self.resume, self.origin, self.force = resume, origin, force
        self.ranks = agent.ranks = ranks or Ranks()
        self.on_step, self.on_save, self.quiet = on_step, on_save, quiet
        self.board: Board | None = None
        self.share: float | None = None  # of `seconds`, for a network of an ensemble
        self.explained = False  # whether the reasons for the settings that the data decided were printed
        self.member: int | None = None  # position of the network that it trains in an ensemble
        self.recipes: Sequence[Recipe] = ()  # for a second training: how each network was trained the first time
        self.weighed: Weighed | None = None  # for a second training: the weights of the log's counts
        self.launch = self.ranks.launch
        self.interrupts = Interrupts(self.ranks, quiet=quiet)
        self.rng = np.random.default_rng(setup.seed)
        setup.threaded()

    @classmethod
    def from_setup(
        cls,
        setup: Setup | str | Path,
        *,
        world: World | None = None,
        resume: bool = False,
        origin: Path | None = None,
        force: bool = False,
        ranks: Ranks | None = None,
    ) -> "Environment":
        """State, agent and environment of a setup or its path; `world` replaces the world that the setup names."""
        setup = setup if isinstance(setup, Setup) else Setup.read(setup)
        source: Source | None = None
        if world is not None or setup.world.name is not None:
            world = world or world_of(setup)
            state = state_in(world, setup)
            setup, source = state.setup, source_in(world, state)
        else:
            state = State.open(setup, resume=resume, origin=origin)
        agent = Agent(setup, state.space)
        return cls(agent, state, setup, source=source, resume=resume, origin=origin, force=force, ranks=ranks)

    def run_sim(self) -> Report:
        """Train if the setup says so; otherwise recommend."""
        return self.train_agent() if self.setup.train else self.infer()

    def train_agent(self) -> Report:
        """The training cycle over `epochs` user histories: history, predict, produce, propagate.

        The models are saved every `save_every` histories and at the end. An interrupt (Ctrl-C) lets the current cycle
        finish, then saves. When `seconds` are over, the current cycle is broken off, unless it is the first. A second
        training follows if `refit` asks for it; its model replaces the first one when it is complete.

        Raises:
            TrainingError: a loss was not finite; the last good save is kept.
            SaveError: a model cannot be written, or another training writes it; checked before the first step.
            ModelError: the model paths hold models of another algorithm or of other data, and `force` is False.
        """
        with nullcontext() if self.ranks.rank else self._alone():
            report = self._train_members() if self.setup.ensemble > 1 else self._train()
            return self._refit(report)

    def _refit(self, report: Report) -> Report:
        """Train a second time if that is due; returns the report of both trainings."""
        if report.interrupted or not self._twice:
            return report
        more = due(self.setup, self.state.chosen_by)
        if more is None:
            if told := lacking(self.setup, self.state.chosen_by):
                Lines(quiet=self.quiet).print(told, highlight=False)
            before = refit_on(read_manifest(self.setup.model_agent_path)) if self.resume else None
            return replace(report, refit=before)
        second = self._second(more)
        done = second.train_agent()
        if done.interrupted:
            return replace(report, stopped=True, interrupted=True, idle=False)
        checkpoint.replace_by(self.agent, second.agent, {"on": more, "events": int(second.state.split.known.sum())})
        if not self.ranks.rank:
            remove_models(second.setup)
        self.agent.space, self.agent.learner, self.agent.nets = (
            second.agent.space, second.agent.learner, second.agent.nets,
        )  # fmt: skip
        self.agent.eval()
        return replace(report, seconds=report.seconds + done.seconds, refit=more, idle=False)

    @property
    def _twice(self) -> bool:
        """Whether a second training may follow: on the log alone, and not where another model was trained further."""
        own = self.given is not None or self.setup.algorithm.source not in SOURCES
        ours = not own or isinstance(self.source, LogSource)
        return ours and not self.origin and self.setup.refit != "no"

    @property
    def _share(self) -> float:
        """The share of `seconds` for this training; less than 1 where a second one is to follow."""
        split = self.state.chosen_by
        if self.share is not None or not self._twice or not planned(self.setup, split):
            return self.share or 1.0
        return first_share(split)

    def _second(self, more: More) -> "Environment":
        """The environment of the second training: the first one's schedule and data-driven settings, more events."""
        first, saved = self.setup, read_models(self.setup.model_agent_path)
        setup = first.model_copy(update=saved.built_with(first)).second
        state = State(self.state.dataset, setup, more=more)
        recipes, weighed = recipes_in(saved.manifest), saved.manifest.metrics.get("weighed")
        epochs, dropout = recipes[0].histories(len(state.train_users)), first.dropped(self.state.space)
        setup = setup.model_copy(update={"epochs": epochs, "dropout": dropout})
        state = State(state.dataset, setup, state.space, more)
        begun = setup.members[0] if setup.ensemble > 1 else setup
        environment = Environment(
            Agent(setup, state.space), state, setup, source=self.given and type(self.given)(state), force=True,
            resume=self.resume and any(one.model_agent_path.is_file() for one in (begun, setup)),
            ranks=self.ranks, on_step=self.on_step, quiet=self.quiet,
        )  # fmt: skip
        environment.recipes, environment.explained, environment.launch = recipes, True, self.launch
        environment.weighed = Weighed(**weighed) if weighed else None
        added = state.split.known.sum() - self.state.split.known.sum()
        Lines(quiet=self.quiet).print(
            f"refit: a second training, on {ON[more]} ({added:,} more), for {recipes[0].passes:.1f} passes; "
            "`refit, no` leaves it out",
            highlight=False,
        )
        return environment

    def _alone(self) -> AbstractContextManager[None]:
        """A context within which no other training writes this model."""
        path = self.setup.model_agent_path
        check_paths([path])
        refusal = f"{path}: another training writes it; wait for its end, or set model_agent_path to another"
        return alone(path.with_name(f".{path.name}.lock"), SaveError(refusal))

    def _train(self) -> Report:
        """Train one network, or one network of an ensemble."""
        agent, setup = self.agent, self.setup
        limit = setup.seconds and setup.seconds * self._share
        monitor = self._begin()
        start = time.perf_counter()
        before = agent.spent * (limit or 0.0)  # seconds spent by the run that is resumed
        stopped = False
        shown = nullcontext() if self.ranks.rank else self._tracker(monitor.run)
        with shown as tracker, self.interrupts.noted():
            while not (self.done() or stopped or monitor.over):
                try:
                    step = self._cycle()
                except OutOfTime:
                    agent.spent = 1.0
                    break
                if tracker is not None:
                    tracker.show(step, agent.histories)
                monitor.record(step)
                if self.on_step is not None and self.on_step(step) is True:
                    self.interrupts.signals.append(0)
                if limit:
                    agent.spent = (before + time.perf_counter() - start) / limit
                    agent.deadline = math.inf if self.ranks.joined else start + limit - before
                stopped = self.ranks.follow(agent, bool(self.interrupts.signals))
            seconds = time.perf_counter() - start
            monitor.finish(ended=self.done() or monitor.over)
            if self.board is not None:
                self.board.close(card_path(setup.model_agent_path).read_text(encoding="utf-8"))
        return self._report(monitor, seconds)

    def _train_members(self) -> Report:
        """Train each network of an ensemble, then join them into one.

        One process trains them one after the other. Several processes, if there are no more of them than networks,
        divide the networks among themselves. A resumed run continues with the networks that were saved; their files are
        removed once all are joined.
        """
        if (idle := self._begin_members()) is not None:
            return idle
        setup, state, apart = self.setup, self.state, self._apart
        places, saved = range(setup.ensemble), [one.model_agent_path for one in setup.members]
        begun = [self.resume and path.is_file() for path in saved]  # read before another process saves
        if apart:
            self._check()
            held = {"items": state.space.catalogue.hash(), "events": state.dataset.digest}
            self.ranks.begin(setup, self.agent, self.agent.device, split=state.split.hash, **held)
        group = self.ranks.patient() if apart else None
        members, reports = dict[int, Networks](), list[Report]()
        for place in places[self.ranks.rank :: self.ranks.count] if apart else places:
            environment = self._member(place, resume=begun[place])
            reports.append(environment.train_agent())
            members[place] = environment.agent.nets
            if reports[-1].interrupted:
                break
        several = self.ranks.every(reports, group) if apart else [reports]
        if any(one.interrupted for ours in several for one in ours):
            return replace(_together(several), stopped=True)
        for place in places:
            if place not in members:  # another process trained it
                agent = self._member(place, resume=True).agent.like(saved[place])
                members[place] = agent.nets = agent.add_model()[0]
                checkpoint.take_weights(agent)
        return self._joined(_together(several), [members[place] for place in places])

    def _begin_members(self) -> Report | None:
        """Refuse a setup that no ensemble can be trained from; returns a report if nothing is left to train."""
        setup, state = self.setup, self.state
        if self.origin:
            raise SetupError("an ensemble starts from nothing; leave --from out, or set ensemble=1")
        if self.given is not None and not isinstance(self.given, LogSource):
            raise SetupError(
                "the networks of an ensemble learn from a log, each by a source of its own; set ensemble=1"
            )
        joinable(self.agent.sketch())
        if self.resume and not any(one.model_agent_path.is_file() for one in setup.members):
            saved = checkpoint.progress(setup)
            if saved is None or not saved.ended:
                raise SetupError(
                    f"{setup.model_agent_path}: the networks of an ensemble are one there, and were trained with other "
                    "settings; leave --resume out to train anew"
                )
            return Report(saved.histories, saved=setup.model_paths, idle=True)
        if not (self.resume or self.force):
            checkpoint.spare(setup, state.dataset.name, state.space.catalogue)
        if not (self.resume or self.ranks.rank):
            # Left over from another run: resuming would take them for this run's.
            for one in (*setup.members, setup.second, *setup.second.members):
                remove_models(one)
        return None

    @property
    def _apart(self) -> bool:
        """Whether each of several processes trains its own networks of the ensemble."""
        return self.ranks.joined and self.ranks.count <= self.setup.ensemble

    def _member(self, place: int, *, resume: bool) -> "Environment":
        """The environment that trains one network of an ensemble."""
        one, state = self.setup.members[place], self.state
        if self.recipes:
            one = one.model_copy(update={"epochs": self.recipes[place].histories(len(state.train_users))})
        learned = State(state.dataset, one, state.space, state.more)
        environment = Environment(
            Agent(one, state.space), learned, one, source=self.given and type(self.given)(learned), force=True,
            resume=resume, ranks=None if self._apart else self.ranks,
            on_step=self.on_step, on_save=self.on_save, quiet=self.quiet or self.ranks.rank > 0,
        )  # fmt: skip
        environment.member, environment.explained, environment.launch = place, place > 0, self.launch
        # Each process divides the time among its own networks only.
        rounds = math.ceil(self.setup.ensemble / self.ranks.count) if self._apart else self.setup.ensemble
        environment.share = self._share * self.setup.ensemble / rounds
        environment.recipes = self.recipes[place : place + 1]
        return environment

    def _joined(self, together: Report, members: Sequence[Networks]) -> Report:
        """Save the networks of an ensemble as one model and remove their own files."""
        agent, setup = self.agent, self.setup
        agent.ranks, agent.spent = self.ranks, 1.0
        agent.histories, agent.nets = together.histories, agent.add_model()[0]
        for name, net in agent.nets.items():
            join(net, [one[name] for one in members])
        self.explained, self.resume = True, False  # the joined model starts a run of its own
        monitor = self._monitor(checkpoint.new_run())
        if not self.recipes:
            apart = [read_manifest(one.model_agent_path) for one in setup.members]
            recipes = [one.as_json() for manifest in apart for one in recipes_in(manifest)]
            monitor.made_on["recipes"] = recipes
        monitor.unsaved, monitor.targets, monitor.seconds = True, together.targets, together.seconds
        with self.interrupts.noted():
            monitor.finish(ended=True)
        if not monitor.interrupted:
            checkpoint.conclude(agent, monitor.valid)
            if not self.ranks.rank:
                for one in setup.members:
                    remove_models(one)
        stopped, interrupted = monitor.interrupted, self.interrupts.came()
        done = replace(together, ranks=self.ranks.count, valid=monitor.valid, saved=setup.model_paths)
        return replace(done, stopped=stopped, interrupted=interrupted)

    def _begin(self) -> Monitor:
        """Build the agent, or restore it from the save of its run; nothing is written yet."""
        agent, state, setup, source = self.agent, self.state, self.setup, self.source
        if not (self.resume or self.force):
            checkpoint.spare(setup, state.dataset.name, state.space.catalogue, self.origin)
        self._check()
        digest = state.dataset.digest  # first: one sequential read, before the log on disk is read in random order
        if weights := self.origin or (to_resume(setup.model_agent_path) if self.resume else None):
            agent.like(weights)
        agent.wake_agent()
        run = checkpoint.resume(agent, self.rng) if self.resume else checkpoint.new_run()
        if not self.resume:
            if not self.ranks.rank:
                remove_models(setup.second)  # left over from another run, too
            console = Plain(stderr=True, quiet=self.quiet)
            with console.status("counting co-occurrences in the log") if draws(console) else nullcontext():
                source.prepare(agent)
        if self.origin:
            checkpoint.start_from(agent, self.origin)
        agent.horizon, agent.polyak = source.horizon, source.polyak
        agent.recipe = self.recipes[0] if self.recipes else None
        source.resume(agent.histories, agent.steps)
        if self.ranks.joined and not source.shared:
            raise SetupError(
                f"{setup.algorithm.name} acts in a world here, which every process would play from end to end; start "
                "one process, with `threads`"
            )
        held = {"items": state.space.catalogue.hash(), "events": digest}
        self.ranks.begin(setup, agent, agent.device, split=state.split.hash, **held)
        monitor = self._monitor(run)
        if self.launch and not self.resume:  # a worker that is replaced resumes from this save
            checkpoint.save(agent, self.rng, run, monitor.made_on)
        return monitor

    def _check(self) -> None:
        """Refuse settings with which the run would fail at its start."""
        setup = self.setup
        if (
            setup.patience
            and not setup.acts
            and not len(self.state.split.validation)
            and setup.patience != setup.algorithm.defaults().get("patience")
        ):
            raise SetupError("patience is set, and the split has no validation users; raise split.validation")
        check_paths(setup.model_paths)
        check_board(setup)

    def _tracker(self, run: str) -> Tracker:
        """The tracker that shows the steps of a run."""
        agent = self.agent
        users, self.board = len(self.state.train_users), board_of(self.setup, run)
        return Tracker(self.setup.log_path, agent.histories, agent.horizon, users, self.quiet, self.board)

    def _saved(self, valid: dict[str, float]) -> None:
        """Pass on the measures of a save."""
        if self.board is not None and valid:
            self.board.add({f"valid_{name}": value for name, value in valid.items()}, self.agent.histories)
        if self.on_save is not None:
            self.on_save(valid)

    def _cycle(self) -> Step:
        """History, predict, produce, propagate.

        Raises:
            DataError: a custom source has no batch, or one that cannot be learned from.
            OutOfTime: the agent's deadline passed before the update.
        """
        source, name = self.source, type(self.source).__name__
        try:
            batch = source.next_batch(LearnedPolicy(self.agent, self.state), self.rng)
        except (StopIteration, RuntimeError) as error:
            ended = error.__cause__ if isinstance(error, RuntimeError) else error  # from within a generator (PEP 479)
            if not isinstance(ended, StopIteration):
                raise
            raise DataError(
                f"the source {name} has come to its end after {self.agent.histories:,} of {self.agent.horizon:,} "
                "histories; lower passes, or let it begin again"
            ) from None
        if not isinstance(batch, Batch):
            raise DataError(f"the source {name} gives a {type(batch).__name__}; expected a what_next.types.Batch")
        parts = [source, *(source.sources if isinstance(source, Mixture) else ())]
        ours = all(type(one).__module__.startswith("what_next.") for one in parts)  # their batches need no check
        if batch.shown is None and not ours:
            batch.check(len(self.state.space.catalogue))
        return self.agent.propagate(batch, self.rng)

    def _monitor(self, run: str) -> Monitor:
        """The run's monitor; it prints the reasons for the settings that the data decided."""
        decided, reasons = self.source.chosen
        dataset, split = self.state.dataset, self.state.split
        counts = {
            "events": dataset.events,
            "users": dataset.users,
            "training users": len(self.state.train_users),
            "validation users": len(split.validation),
            "test users": len(split.test),
        }
        made_on = {"data": dataset.name, "counts": counts, "split": split.hash, "events": dataset.digest}
        monitor = Monitor(
            self.agent,
            self.rng,
            run,
            self.validate,
            self.weigh,
            self.state.monitored,
            made_on | ({"fitted": dict(decided)} if decided else {}) | ({"launch": self.launch} if self.launch else {}),
            self.source.save_every,
            self.patience,
            self.resume,
            self._saved,
            self.quiet,
        )
        doubts = self._foresees and self.state.monitored != "spread"
        told = validation.doubts(dataset, split, self.setup.split.seed) if doubts and not self.explained else []
        for reason in () if self.explained else [*self.state.left_out, *reasons, *told]:
            monitor.console.print(reason, highlight=False)
        return monitor

    @property
    def _foresees(self) -> bool:
        """Whether the validation users' next events measure how good the agent is."""
        return bool(len(self.state.split.validation)) and self.source.foreseen

    @property
    def patience(self) -> int | None:
        """The setup's patience, or None if validation users choose nothing."""
        return self.setup.patience if self._foresees else None

    def validate(self) -> dict[str, float]:
        """The measures of the agent on the validation users; empty if nobody is judged.

        All processes must call it; each gets the result of the first one.
        """
        with whole(self.agent):
            found: dict[str, float] = self.ranks.first(self._validated())
        return found

    def _validated(self, most: int = validation.MOST, policy: Policy[Proposal] | None = None) -> dict[str, float]:
        agent, state, ranks = self.agent, self.state, self.ranks
        was_training = any(net.training for net in agent.nets.values())
        policy = policy or LearnedPolicy(agent.eval(), state)
        judged = policy, state.dataset, state.split, state.histories
        if self.state.monitored == "spread":
            found = validation.spread(*judged, space=state.space, setup=self.setup)
        else:
            seed, seen = self.setup.split.seed, self.setup.evaluation.seen
            earned = state.logged if state.monitored == "dcg@10" else None
            found = validation.next_items(*judged, seed=seed, seen=seen, most=most, ranks=ranks, earned=earned)
        if was_training:
            agent.train()
        return found

    def weigh(self) -> Weighed | None:
        """Weigh the linear term beside the encoder on the validation users; returns what was chosen, if anything.

        Skipped if the source counted nothing of the log, if the agent does not learn what users do by themselves, and
        for one network of an ensemble, because the ensemble is weighed as a whole.

        Raises:
            Interrupted: the user interrupted it.
        """
        agent, state = self.agent, self.state
        encoder = agent.nets.get("encoder")
        if not isinstance(encoder, Encoder) or (linear := encoder.ridge) is None or self.member is not None:
            return None
        if not linear.gains.any() or not (self._foresees or self.weighed):
            return None
        events = Known.of(state.dataset, state.split.known)

        def learn(rank: int) -> None:
            linear.learn(*directions(*events.pairs, events.catalogue, rank, self.setup.seed), events.counts)

        if linear.rank > (few := ranks_of(events.catalogue)[0]):  # an earlier weighing chose more directions
            learn(few)
        linear.favour(events.counts)
        recent, transitions = recent_of(events), transitions_of(events, state.dataset.catalogue, linear)
        if self.weighed:
            self.weighed.apply(linear, recent, learn, transitions)
            return None
        policy = validation.Shortlist(LearnedPolicy(agent.eval(), state))
        judged = policy, state.dataset, state.split, state.histories
        seed, seen, most = self.setup.split.seed, self.setup.evaluation.seen, validation.affordable(events.catalogue)
        users = len(validation.some_targets(state.dataset, state.split, seed, most))
        assert isinstance(agent.learner, EncoderLearner)
        heeded = self.interrupts.heeded
        described = self.setup.item_inputs(state.space) != "learned"

        def surprise() -> float:
            # No score tells how likely an item without events is, unless attributes or tags describe it.
            known = None if described or linear.transition * linear.tag_steps else events.counts > 0
            return validation.surprise(*judged, seed=seed, seen=seen, known=known, ranks=self.ranks)

        with agent.learner.remembering():
            weighed = weigh(
                linear,
                f"{state.monitored} of {counted(users, 'validation user')}",
                heeded(lambda: self.ranks.first(self._validated(most, policy)).get(state.monitored, 0.0)),
                heeded(surprise),
                recent,
                heeded(learn),
                transitions,
                repeats=seen,
                quiet=self.quiet,
                agreed=self.ranks.first,
            )
            told = validation.nearly_uniform(policy.policy, *judged[1:], seed=seed, seen=seen)
        if told:
            Lines(quiet=self.quiet).print(told, highlight=False)
        return weighed

    def _report(self, monitor: Monitor, seconds: float) -> Report:
        """The report of a training."""
        stopped = monitor.interrupted or not (self.done() or monitor.over)
        return Report(
            self.agent.histories,
            monitor.targets + int(monitor.before["targets"]),
            seconds + monitor.before["seconds"],
            tuple(monitor.steps),
            monitor.valid,
            self.setup.model_paths,
            passes=self.agent.histories / len(users) if len(users := self.state.train_users) else 0.0,
            alarms=monitor.alarmed,
            unit=self.setup.unit,
            ranks=self.ranks.count,
            bytes_per_step=round(self.ranks.sent / max(1, len(monitor.steps))),
            stopped=stopped,
            interrupted=self.interrupts.came() or stopped,
            idle=self.resume and not (monitor.steps or monitor.unweighed or stopped),
        )

    def done(self) -> bool:
        """Whether the run has used up its time, or the histories that the source has for it."""
        return self.agent.spent >= 1 or self.source.done(self.agent.histories, self.agent.steps)

    def infer(self) -> Report:
        """One cycle without learning: recommendations for the setup's users, or for a random one."""
        agent = self.agent.ready_agent()
        state = self.state.within(agent.space)
        everyone = state.dataset.user_ids
        users = self.setup.user or (str(everyone[int(self.rng.integers(len(everyone)))]),)
        recommender = Recommender(LearnedPolicy(agent, state))
        # One of the items that match a proposal equally well is drawn; ranked items are taken in order.
        rng = self.rng if agent.setup.algorithm.by_attributes else None
        found = recommender.recommend_users(users, self.setup.slots, rng=rng)
        return Report(agent.histories, recommendations=tuple(found))


def _together(several: Sequence[Sequence[Report]]) -> Report:
    """The joint report of an ensemble's networks; the processes trained at the same time, one after another in each."""
    reports = [one for ours in several for one in ours]
    sums = {name: sum(getattr(one, name) for one in reports) for name in ("histories", "targets", "passes")}
    return replace(
        reports[-1],
        **sums,
        seconds=max(sum(one.seconds for one in ours) for ours in several),
        steps=tuple(step for one in reports for step in one.steps),
        alarms=tuple(dict.fromkeys(alarm for one in reports for alarm in one.alarms)),
        idle=False,
    )
