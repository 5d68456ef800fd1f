"""The log as a source: each user's next event stands for a policy's choice, and the setup defines its reward."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64

from what_next.agent import Agent
from what_next.algorithms import NextItem
from what_next.baselines.counts import Known
from what_next.data.batches import LEAST, Batches, capped, width_of
from what_next.data.cooccurrence import directions, placed
from what_next.data.mapped import at_random
from what_next.errors import SetupError, some
from what_next.models.linear import ranks_of
from what_next.policy import LearnedPolicy
from what_next.rewards import Logged, RewardLog, check, total
from what_next.settings import AFFORDABLE, COLD, DROPOUT, LARGE, OFTEN, RARE, SHORT
from what_next.sources.base import Source
from what_next.state import State
from what_next.training import validation
from what_next.types import Batch, History

MANY = 0.2
"""If more than this share of the validation targets are repeats, a message says that repeats are not judged. Also the
difference in repeat rates, after high and low rewards, from which a message mentions it."""
FEW = 100
"""Fewest events with a high and with a low reward for comparing repeat rates."""
LONG = 100_000
"""Most histories between two saves."""
CELLS = 2**20
"""Events whose rewards are computed at a time, ahead of training."""


class LogSource(Source):
    """The complete training histories, in windows; a pass takes each once.

    The order is random, and the same for the same seed and step.
    """

    def __init__(
        self, state: State, known: Int64[np.ndarray, "users"] | None = None, reasons: Sequence[str] = ()
    ) -> None:
        """`known`: number of events per user that are learned from; None: all that training may know. `reasons`:
        sentences about the choice of this source."""
        super().__init__(state)
        self.known = state.split.known if known is None else np.minimum(known, state.split.known)
        users = state.train_users
        self.users = users[self.known[users] >= self.setup.algorithm.least_events]
        self.taken, self.reasons = 0, reasons

    def prepare(self, agent: Agent) -> None:
        """See `Source.prepare`: learned item vectors start from co-occurrence, the linear model is fitted, and items
        that nothing followed are marked as unknown."""
        state, setup = self.state, agent.setup  # the agent's, which may come from the weights that training starts from
        encoder = agent.nets["encoder"]
        linear, followed = getattr(encoder, "ridge", None), getattr(encoder, "followed", None)
        drawn = setup.inputs.start == "random" or setup.item_inputs(state.space) == "attributes"
        if drawn and linear is None and followed is None:
            return
        events = Known.of(state.dataset, state.split.known)
        whole = len(events.items) == state.split.known.sum()  # a part of the log cannot tell that nothing followed
        if followed is not None and whole and setup.item_inputs(state.space) == "learned":
            followed.zero_()[torch.from_numpy(events.transitions[0]).to(followed.device).long()] = True
        if linear is not None:
            few = ranks_of(events.catalogue)[0]
            linear.learn(*directions(*events.pairs, events.catalogue, few, setup.seed), events.counts)
        if drawn:
            agent.copy_targets()
        else:
            agent.place_items(placed(events.items, events.users, events.catalogue, setup.dim, setup.seed))

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """See `Source.next_batch`. The policy is not asked, because the users chose."""
        windows = self.batches.batch(self.taken)
        self.taken += 1
        return self.batch(policy, self.windows(windows), self.later[windows])

    def batch(
        self, policy: LearnedPolicy, history: History, later: Float32[np.ndarray, "batch"] | None = None
    ) -> Batch:
        """The batch of some windows; `later`: what their users earned after them, discounted to the last event."""
        before = np.zeros_like(history.lengths) if history.before is None else history.before
        # The state after a user's last event has value 0. In a log of sessions that is true. A log of people is merely
        # cut off there, but no reward would correct an estimated value, and it is only one state per user. The state
        # keeps its value if the split holds back later events, or cuts all histories at one moment, because only the
        # test may know who came back.
        all_of_them = self.state.dataset.lengths[history.users]
        over = (before + history.lengths == all_of_them) & (self.state.split.kind != "time")
        factors, discount = policy.agent.factorize(history), self.setup.discount
        made = Batch.following(history, factors, self.earned(history), discount, over, later)
        return replace(made, histories=int((before == 0).sum()))  # a history in several windows counts once

    @cached_property
    def batches(self) -> Batches:
        """The complete training histories, in windows and batches."""
        setup, dataset = self.setup, self.state.dataset
        at_random(dataset.items, dataset.timestamps, dataset.rewards, dataset.context)
        known, size, targets = self.known[self.users], setup.batch_size, setup.batch_targets
        length, seed = setup.max_length, setup.seed
        return Batches(self.users, known, max_length=length, batch_size=size, batch_targets=targets, seed=seed)

    def windows(self, windows: Int64[np.ndarray, "batch"]) -> History:
        """The events of some windows of `batches`."""
        batches = self.batches
        users, starts, lengths = batches.users[windows], batches.starts[windows], batches.lengths[windows]
        history = self.state.histories(users, starts, lengths, width_of(int(lengths.max())))
        return replace(history, before=starts)

    @cached_property
    def log(self) -> RewardLog:
        """The log in the form that rewards read."""
        state, reward, algorithm = self.state, self.setup.reward, self.setup.algorithm
        check(reward.terms, replace(state.dataset, catalogue=state.space.catalogue))
        ahead = [term.key for term in reward.terms if term.reads_future]
        if ahead and algorithm.reads_returns:
            raise SetupError(
                f"{algorithm.name} reads future returns in training, and {ahead[0]} knows what the user hears later, "
                f"which gives away the item to predict; leave {ahead[0]}.weight out, or take another algorithm"
            )
        vectors = state.space.catalogue.vectors
        return RewardLog.of(state.dataset, state.split.known, vectors, reward.logged, reward.terms)

    def earned(self, history: History) -> Float32[np.ndarray, "batch time"]:
        """The weighted reward of each event of some windows."""
        return total(self.setup.reward.terms, self.log.events(history)).float().numpy()

    @cached_property
    def later(self) -> Float32[np.ndarray, "windows"]:
        """For each window of `batches`, the reward of the user's later windows, discounted to its last event."""
        batches, length, discount = self.batches, self.setup.max_length, self.setup.discount
        after = 1 + np.flatnonzero(batches.users[1:] == batches.users[:-1])  # all are full: see `Batches`
        found, weights = np.zeros(len(batches.users)), discount ** np.arange(length)
        for part in np.array_split(after[::-1], -(-len(after) * length // CELLS) or 1):
            earned = self.earned(self.windows(part))[:, 1 : length + 1] @ weights if len(part) else ()
            for window, sum_of in zip(part, earned, strict=True):  # from each user's last window backwards
                found[window - 1] = sum_of + discount**length * found[window]
        return found.astype(np.float32)

    @property
    def save_every(self) -> int:
        """See `Source.save_every`: once per pass, or more often if a pass is long."""
        return self.setup.save_every or min(len(self.users), LONG)

    def done(self, histories: int, steps: int) -> bool:
        """Whether as many batches were taken as the run's histories make up."""
        return steps >= max(1, round(self.horizon / len(self.users) * len(self.batches)))

    def resume(self, histories: int, steps: int) -> None:
        """See `Source.resume`."""
        self.taken = steps

    @property
    def chosen(self) -> tuple[Mapping[str, str | int], Sequence[str]]:
        """The loss that fits the catalogue, and how many histories make a batch."""
        loss = self.setup.loss.over(len(self.state.space.catalogue))
        reasons = [*self.reasons, *self._of_networks(loss), *self._of_rewards(), *self._of_histories()]
        return {"loss": loss, "batch_size": self.batches.batch_size}, reasons

    def _of_networks(self, loss: str) -> Iterator[str]:
        """Why loss and networks are as they are, if the setup left that open."""
        setup, space = self.setup, self.state.space
        items, mean = len(space.catalogue), space.events_per_user
        if setup.loss.name == "auto":
            compared = "at most" if items <= AFFORDABLE else "more than"
            yield (
                f"loss {loss}: {items:,} items are {compared} {AFFORDABLE:,}, up to which a softmax over all of them "
                "is affordable; `loss` sets another"
            )
        if setup.skip == "auto" and setup.model in ("lstm", "gru") and mean:
            skips, short = setup.skips(space), mean <= SHORT
            of_log = "" if short else f", and the log has {'at least' if skips else 'fewer than'} {LARGE:,}"
            yield (
                f"skip {'yes' if skips else 'no'}: training users have {mean:.1f} events on average, "
                f"{'at most' if short else 'more than'} {SHORT}{of_log}, so the last item "
                f"{'also goes' if skips else 'does not go'} straight into the state; `skip` sets another"
            )
        if setup.dropout is None and (share := setup.dropped(space)) != DROPOUT[0]:
            yield (
                f"dropout {share:g}: the log has at least {LARGE:,} training events, and {OFTEN} of an item on "
                f"average, so it is not soon memorised; for other logs it is {DROPOUT[0]:g}; `dropout` sets another"
            )
        if setup.item_dropout is None and (share := setup.unknown(mean)):
            yield (
                f"item_dropout {share:g}: training users have {mean:.1f} events on average, at most {SHORT}, so that "
                "much rests on single items, and some are read as unknown; `item_dropout` sets another"
            )
        if setup.inputs.items == "auto" and setup.item_inputs(space) == "attributes":
            yield (
                f"inputs.items attributes: the items of {space.cold:.0%} of the validation targets have no training "
                f"event, more than {COLD:.0%}; `inputs.items` sets another"
            )
        if setup.inputs.items == "auto" and setup.item_inputs(space) == "both":
            yield (
                f"inputs.items both: items have attributes, and {space.events_per_item:.1f} training events on "
                f"average, at most {RARE}; `inputs.items` sets another"
            )

    def _of_rewards(self) -> Iterator[str]:
        """What chooses the best model if rewards differ; a hint if rewards are equal though the events differ."""
        setup, data = self.setup, self.state.dataset
        if setup.monitor is None and self.state.monitored == "dcg@10":
            yield (
                f"monitor dcg@10: {setup.algorithm.name} learns from rewards, and those of the log differ; `monitor, "
                "ndcg@10` asks for accuracy alone"
            )
        logged, alike = setup.reward.logged, len(data.event_words) > 1 and data.rewards is None
        counts = any(isinstance(term, Logged) for term in setup.reward.terms)
        if alike and counts and not logged.numbers and not isinstance(setup.algorithm, NextItem):
            keys = " and ".join(f"`reward.logged.{word}`" for word in data.event_words[:2])
            yield (
                f"reward.logged 1: {setup.algorithm.name} learns from rewards, and events of all kinds "
                f"({some(data.event_words)}) earn the same; {keys}{'' if len(data.event_words) == 2 else ' and so on'} "
                "say what each is worth"
            )
        if setup.evaluation.seen and not (setup.inputs.rewards or setup.inputs.context):
            poor, rich = self._again()
            if abs(poor - rich) > MANY:
                yield (
                    f"inputs.rewards no: after an event that earned less than the mean the same item came again in "
                    f"{poor:.0%}, after the others in {rich:.0%}, and the encoder does not see rewards; "
                    "`inputs.rewards, yes` shows them"
                )

    def _again(self) -> tuple[float, float]:
        """How often the same item comes next, after events below the mean reward and after the others.

        Computed from the first `CELLS` events that training knows; 0 and 0 if either kind has fewer than `FEW`.
        """
        data = self.state.dataset
        places = np.arange(min(data.events, CELLS) - 1)
        users = np.searchsorted(data.offsets, places, side="right") - 1
        places = places[places + 1 < data.offsets[users] + self.known[users]]
        earned, same = self.state.logged[places], data.items[places] == data.items[places + 1]
        poor = earned < earned.mean() if len(earned) else np.empty(0, np.bool_)
        if min(poor.sum(), (~poor).sum()) < FEW:
            return 0.0, 0.0
        return float(same[poor].mean()), float(same[~poor].mean())

    def _of_histories(self) -> Iterator[str]:
        """Which events are learned from, the batch size, and whether validation targets can be recommended at all."""
        setup, batches, known = self.setup, self.batches, self.known[self.users]
        if cut := int(((most := capped(known)) < known).sum()):
            largest = int(known.argmax())
            yield (
                f"user {self.state.dataset.user_ids[int(self.users[largest])]} has {known[largest]:,} of the "
                f"{known.sum():,} training events: of such users ({cut:,}) the latest {most[largest]:,} are learned "
                "from, so that they do not drown out the others"
            )
        if setup.batch_size is None:
            each = float((batches.lengths - 1).mean())
            less = batches.batch_size * each < setup.batch_targets / 2
            few = f", and a pass has {LEAST} batches or more" if less else ""
            yield (
                f"batch_size {batches.batch_size:,}: about {batches.batch_size * each:,.0f} targets, since a history "
                f"(or a window of a long one) has {each:.1f} on average{few}; `batch_targets` or `batch_size` sets "
                "another"
            )
        if (held := self._held()) > MANY:
            yield (
                f"evaluation.seen no: of {held:.0%} of the validation users the next item stands in the history, where "
                "it is not recommended again, and counts as missed; `evaluation.seen, yes` recommends and judges it"
            )

    def _held(self) -> float:
        """The share of validation targets that the history holds; 0 if repeats are judged like others."""
        state, setup = self.state, self.setup
        if setup.evaluation.seen or not len(state.split.validation):
            return 0.0
        return validation.repeated(state.dataset, state.split, state.histories, seed=setup.split.seed)
