"""A state machine of durable steps: export, train, judge, shadow, canary, promote, watch; or refuse, or roll back.

A round is a row of the journal with its next step. After a step has done its work, the journal records in one
transaction that it is done, its results and the next step. If the process is killed in between, the step is repeated.
So every step is idempotent: files are written aside and renamed, training resumes from its last checkpoint, and a
version is copied and deployed only once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from what_next.errors import ModelError, SetupError, StoreUnavailable, WhatNextError
from what_next.off_policy.candidates import GROUPS
from what_next.serving.engine.versions import AGENT, before, keep, line, prune, versions_folder
from what_next.serving.loop import candidate, evidence
from what_next.serving.loop.evidence import Mean
from what_next.serving.loop.journal import Journal, LoopRound
from what_next.serving.store import Deploy, Second, Store
from what_next.settings import Setup

ESTIMATORS = [name for names, _ in GROUPS for name in names]
"""Names of the gate's estimators; another name is refused before a round trains a candidate."""
TRIES = 3
"""Failures of a step after which its round is given up."""
MOST = 1000
"""Rounds that are searched for an old version."""
STREAM = 20_000
"""Most answers, and most events, that the drift detector reads."""
PAUSE = 3600.0
"""Seconds until the next round after one that was given up."""
LATEST = 250_000_000_000.0
"""Largest time in seconds since 1970 that is shown: Python's dates end with the year 9999."""


@dataclass(frozen=True)
class Done:
    """The result of a step.

    Attributes:
        told: a sentence for the log; `next`: the next step, None if the round is over.
        facts: results that later steps need; `outcome`: of the round, if it is over.
    """

    told: str
    next: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    outcome: str | None = None


class Loop:
    """Keeps a service's model learning. Each `look` does the next step, if there is one.

    Attributes:
        setup: how candidates are trained and served; `store`: of the service; `journal`: the loop's state.
    """

    def __init__(
        self, setup: Setup, store: Store, journal: Journal, make_sure: Callable[[], None] = lambda: None
    ) -> None:
        """`journal`: its clock is used throughout; `make_sure`: the function that `alone` yields.

        Raises:
            SetupError: the setup names a second model (also by an experiment), or an unknown estimator.
            MissingExtraError: the setup asks for drift detection, and river is not installed.
        """
        tries = "the loop has the service try candidates of its own; leave it out"
        if setup.server.candidate is not None:
            raise SetupError(f"server.candidate is set, and {tries}")
        if setup.server.tried is not None:
            raise SetupError(f"server.experiment names the version {setup.server.tried}, and {tries}, or stop the loop")
        if (estimator := setup.loop.estimator) is not None and estimator not in ESTIMATORS:
            raise SetupError(f"loop.estimator is {estimator!r}; allowed: {', '.join(ESTIMATORS)}, or none")
        if setup.loop.drift:
            evidence.adwin(setup.loop.drift)
        self.setup, self.store, self.journal, self.make_sure = setup, store, journal, make_sure
        self.folder = Path(journal.backend.where).parent
        self.steps: dict[str, Callable[[LoopRound], Done | None]] = {
            "export": self._export,
            "train": self._train,
            "judge": self._judge,
            "shadow": self._shadow,
            "canary": self._canary,
            "promote": self._promote,
            "watch": self._watch,
        }

    def run(self) -> None:
        """Do steps until there is nothing to do now.

        Raises:
            WhatNextError: a step failed, which is also logged; the next look tries again.
        """
        while self.look():
            pass

    def look(self) -> bool:
        """Do the next step; False if there is nothing to do now.

        Raises:
            WhatNextError: see `run`.
            NotAlone: another loop took the lock while the database was unavailable.
        """
        self.make_sure()
        self.journal.mind_the_clock()
        self._mind_the_store()
        self._mind_the_erased()
        current, deployed, new = self.journal.current(), self.store.deployments(), self._new()
        latest = deployed[-1].version if deployed else None
        if current is None or (current.step == "watch" and latest in (None, current.facts["version"])):
            why = self._due()
            if why is None:
                return current is not None and self._do(current)
            if current is not None:  # the next round takes the place of the watch
                self.store.put_second(None)
                self.journal.note(current, {}, "the watch ends with the next round", step=None, outcome="promoted")
            return self._begin(why)
        if latest is not None and new:
            self._measure(latest)
        return self._do(current)

    # Rounds

    def _due(self) -> str | None:
        """Why a round is due now; None if it is not, and the reason is logged. Also updates the measurements."""
        numbers, deployed = self.journal.numbers(), self.store.deployments()
        if not deployed:
            self.journal.wait("waits for a first answer: nothing is deployed yet; start what-next serve")
            return None
        new, loop, last = int(numbers["unlearned"]), self.setup.loop, numbers.get("began")
        alarm = self._alarm(version := deployed[-1].version, self._measure(version)) if new else None
        if alarm is None and numbers.get("drift"):
            alarm = "the drift that was told before (loop.drift)"
        if last is None:
            self.journal.measure(began=(last := self.journal.clock()))
        if new < loop.least:
            self.journal.wait(
                f"waits for feedback: {new:,} new events and feedback, a round needs {loop.least:,} (loop.least)"
            )
            return None
        waited, rounds = (self.journal.clock() - last) / 1e6, self.journal.rounds(1)
        if rounds and rounds[0].outcome == "failed" and waited < (pause := min(loop.every, PAUSE)):
            self.journal.wait(f"waits until {_moment(last, pause)}, since the last round was given up")
            return None
        if alarm is not None:
            return alarm
        if new >= loop.feedback:
            return f"{new:,} new events and feedback (loop.feedback is {loop.feedback:,})"
        if waited >= loop.every:
            told = f"{waited / 3600:.1f} h" if waited >= 3600 else f"{waited:.0f} s"
            return f"{told} since the last round (loop.every)"
        either = f"until {_moment(last, loop.every)} (loop.every), or for {loop.feedback:,} new events and feedback"
        self.journal.wait(f"waits {either} (loop.feedback)")
        return None

    def _new(self) -> int:
        """The number of events and feedback that no candidate has learned from."""
        new = max(0, evidence.happened(self.store) - int(self.journal.numbers().get("exported", 0)))
        self.journal.measure(unlearned=new)
        return new

    def _begin(self, why: str) -> bool:
        loop, new = self.setup.loop, int(self.journal.numbers()["unlearned"])
        current = self.store.deployments()[-1].version
        rounds = self.journal.rounds(1)
        number = (rounds[0].number if rounds else 0) + 1
        fresh = bool(loop.fresh) and number % loop.fresh == 0
        facts = {"current": current, "fresh": fresh, "why": why}
        self.journal.begin(facts, "export", f"begins: {why}; {new:,} events and feedback are new; {current} answers")
        return True

    def _do(self, current: LoopRound) -> bool:
        """Do one step of a round; False if it has to wait."""
        assert current.step is not None, "a round that is over has no step"
        try:
            done = self._overtaken(current) or self.steps[current.step](current)
        except StoreUnavailable:
            raise  # not a failure of the step: it is tried again
        except Exception as error:
            self._failed(current, error)
            raise
        if done is None:
            return False
        if done.next is None:  # the round is over: no second version any more
            self.store.put_second(None)
        self.journal.note(current, {**done.facts, "tries": 0}, done.told, step=done.next, outcome=done.outcome)
        if done.next is None:
            candidate.clear(self.folder, current.number)
        return True

    def _failed(self, current: LoopRound, error: Exception) -> None:
        """Record a failure; after `TRIES` of them, the round is given up and the deployed version stays."""
        tries = int(current.facts.get("tries", 0)) + 1
        told = str(error) if isinstance(error, WhatNextError) else f"{type(error).__name__}: {error}"
        if tries < TRIES:
            self.journal.note(current, {"tries": tries}, f"failed, and is tried again: {told}")
            return
        self.store.put_second(None)
        goes_on = current.facts["version" if current.step == "watch" else "current"]
        told = f"given up after {tries} tries, {goes_on} goes on: {told}"
        self.journal.note(current, {}, told, step=None, outcome="failed")

    def _overtaken(self, current: LoopRound) -> Done | None:
        """End a round whose candidate is compared with a version that is not deployed any more; else None."""
        if current.step not in ("shadow", "canary", "promote"):
            return None
        deployed, facts = self.store.deployments(), current.facts
        if not deployed or (now := deployed[-1].version) in (facts["current"], facts["version"]):
            return None
        return Done(f"refused: {now} was deployed meanwhile, and not by this loop", outcome="refused")

    # Steps

    def _export(self, current: LoopRound) -> Done | None:
        home, deployed = self._home(current), self._agent(str(current.facts["current"]))
        candidate.check_room(self.folder, deployed.parent)
        until = {"exported": evidence.happened(self.store), "last": evidence.last_answer(self.store)}
        loop, found = self.setup.loop, evidence.answers(self.store, int(self.journal.numbers().get("last", 0)))
        explored = evidence.exploration(found)
        if len(found) and explored < loop.exploration:
            told = (
                f"refused: the log has no exploration (the chance of another item than the shown one is {explored:.3g} "
                f"on average, loop.exploration asks for {loop.exploration:g}): set server.temperature or server.epsilon"
            )
            self.journal.measure(**until)
            return Done(told, outcome="refused")
        counts = candidate.export(self.setup, self.store, deployed, home)
        told = (
            f"exported {counts['learned_events']:,} events and {counts['learned_decisions']:,} decisions about "
            f"{counts['learned_users']:,} users to learn from; {counts['judging_users']:,} users are held out"
        )
        return Done(told, "train", {"exported_at": self.journal.clock(), "until": until, **counts})

    def _train(self, current: LoopRound) -> Done:
        home, deployed = self._home(current), self._agent(str(current.facts["current"]))
        reason = "as every so often" if current.facts["fresh"] else candidate.unlike(self.setup, deployed)
        setup = candidate.settings_of(self.setup, home, current.number, reason is not None)
        try:
            found = candidate.train(setup, deployed if reason is None else None)
        except ModelError as error:  # the deployed model has other networks
            if reason is not None:
                raise
            reason, setup = str(error), candidate.settings_of(self.setup, home, current.number, True)
            found = candidate.train(setup, None)
        if found.interrupted:
            raise KeyboardInterrupt
        candidate.check_catalogue(setup.model_agent_path, deployed)
        version = keep(versions_folder(self.setup), setup.model_agent_path)
        self.journal.measure(**current.facts["until"])
        start = f"from {current.facts['current']}" if reason is None else f"from nothing ({reason})"
        told = f"trained {version} {start}: {found.histories:,} histories in {round(found.seconds, 1):g} s"
        return Done(told, "judge", {"version": version, "warm": reason is None})

    def _judge(self, current: LoopRound) -> Done:
        version, deployed = str(current.facts["version"]), str(current.facts["current"])
        if version == deployed:
            return Done(f"refused: {version} is deployed already", outcome="refused")
        log, ours, theirs = self._home(current) / candidate.JUDGING, self._agent(version), self._agent(deployed)
        found = candidate.judge(self.setup, log, {version: ours, deployed: theirs})
        ndcg = candidate.foreseen(self.setup, log, {"candidate": ours, "deployed": theirs})
        says = "gives" if found["verdict"] == "no evidence" else "says"
        told = f"the log of those held out {says} {found['verdict']}: {candidate.brief(found['why'])}"
        if ndcg:
            told += "; NDCG@10 of their last event: " + ", ".join(f"{name} {one:.3f}" for name, one in ndcg.items())
        facts = {"verdict": found["verdict"], "judged": {**found, "ndcg": ndcg}}
        loop = self.setup.loop
        if found["verdict"] == "worse" or (found["verdict"] != "better" and not loop.canary):
            return Done(f"refused: {told}", facts=facts, outcome="refused")
        step = "shadow" if loop.shadow else "canary" if loop.canary else "promote"
        return Done(told, step, facts)

    def _shadow(self, current: LoopRound) -> Done | None:
        version, loop = str(current.facts["version"]), self.setup.loop
        current = self._entered(current, Second(version, shadow=True), f"{version} answers in the shadow")
        since = int(current.facts["shadow_since"])
        count = evidence.unseen(self.store, version, since)
        if count >= loop.shadow:
            return Done(f"{version} answered {count:,} times in the shadow", "canary" if loop.canary else "promote")
        shown = evidence.last_answer(self.store) - since - count
        if (not count and shown >= 10 * loop.shadow) or self._waited(current) >= loop.patience:
            told = f"refused: {version} answered {count:,} times in the shadow, while {shown:,} answers were given"
            return Done(f"{told}; look at GET /v1/model (unfit) and the log of the service", outcome="refused")
        return None

    def _canary(self, current: LoopRound) -> Done | None:
        version, loop, deployed = str(current.facts["version"]), self.setup.loop, str(current.facts["current"])
        second = Second(version, share=loop.canary, salt=f"{version}:")
        current = self._entered(current, second, f"{version} answers {loop.canary:.0%} of the users, as a canary")
        found = evidence.answers(self.store, int(current.facts["canary_since"]))
        apart = evidence.between(found, version, deployed)
        over = apart.ours.answers >= loop.answers or self._waited(current) >= loop.patience
        told, dear = f"live feedback: {apart}", loop.ceiling is not None and apart.cost > loop.ceiling
        if apart.verdict() == "worse" or dear:
            why = f"cost {apart.cost:.4g} so far (loop.ceiling)" if dear else "is worse"
            return Done(f"rolled back the canary: {version} {why}; {told}", outcome="refused")
        if apart.verdict(loop.margin) == "better":
            return Done(f"{version} is better; {told}", "promote", {"live": told})
        if not over:
            return None
        if current.facts["verdict"] == "better" and apart.mean >= 0:
            return Done(f"{version} is better by the log, and not worse as a canary; {told}", "promote", {"live": told})
        return Done(f"refused: nothing shows that {version} is better; {told}", outcome="refused")

    def _promote(self, current: LoopRound) -> Done:
        version, deployed = str(current.facts["version"]), str(current.facts["current"])
        ever = self.store.deployments()
        ours = any(one.version == version and one.note.get("round") == current.number for one in ever)
        if ours and ever[-1].version != version:  # a killed loop deployed it, and it was rolled back since
            return Done(f"{version} was promoted, and {ever[-1].version} was deployed since", outcome="promoted")
        why = current.facts.get("live") or current.facts["judged"]["why"]
        note = {"from": deployed, "why": why, "round": current.number}
        self._deploy(version, "promoted", note, current.facts["exported_at"])
        gone = self._prune()
        told = f"promoted {version}: {why}" + (f"; {gone} old versions removed" if gone else "")
        return Done(told, "watch") if self.setup.loop.canary else Done(told, outcome="promoted")

    def _watch(self, current: LoopRound) -> Done | None:
        version, loop, deployed = str(current.facts["version"]), self.setup.loop, str(current.facts["current"])
        if not (ever := self.store.deployments()):
            return Done("the watch ends: nothing is deployed in this store", outcome="promoted")
        newest = ever[-1]
        if newest.version != version:
            if newest.note.get("round") == current.number:  # a killed loop rolled back without recording it
                return self._roll_back(version, newest.version, newest.note)
            return Done("the watch ends: another version was deployed", outcome="promoted")
        second = Second(deployed, share=loop.canary, salt=f"{version}:watch:")
        current = self._entered(current, second, f"{deployed} still answers {loop.canary:.0%} of the users, to compare")
        apart = evidence.between(evidence.answers(self.store, int(current.facts["watch_since"])), version, deployed)
        if apart.verdict() == "worse":
            note = {"from": version, "why": str(apart), "round": current.number}
            return self._roll_back(version, before(self.store.deployments()), note)
        if apart.theirs.answers < loop.answers and self._waited(current) < loop.patience:
            return None
        return Done(f"{version} stays: {apart}", outcome="promoted")

    def _roll_back(self, version: str, back: str, note: Mapping[str, Any]) -> Done:
        self._deploy(back, "rolled back", note, self._learned_until(back))
        return Done(f"rolled back from {version} to {back}, which is better: {note['why']}", outcome="rolled back")

    # Shared by steps

    def _home(self, current: LoopRound) -> Path:
        return self.folder / str(current.number)

    def _agent(self, version: str) -> Path:
        return versions_folder(self.setup) / version / AGENT

    def _deploy(self, version: str, kind: Any, note: Mapping[str, Any], learned_until: float | int) -> None:
        self.store.put(Deploy(version, kind, note))
        self.journal.measure(learned_until=learned_until, since=evidence.last_answer(self.store))

    def _learned_until(self, version: str) -> float:
        """When the training log of a version was exported; for a version not from this loop, when it was deployed."""
        for one in self.journal.rounds(MOST):
            if one.facts.get("version") == version:
                return float(one.facts["exported_at"])
        return min(float(one.time) for one in self.store.deployments() if one.version == version)

    def _prune(self) -> int:
        """Remove all but the latest deployed versions, and refused candidates; returns how many."""
        deployed = self.store.deployments()
        own = [one.facts["version"] for one in self.journal.rounds(MOST) if "version" in one.facts]
        names = [*own, *(one.version for one in deployed)]
        return prune(versions_folder(self.setup), names, line(deployed)[-self.setup.loop.keep :])

    def _entered(self, current: LoopRound, second: Second, told: str) -> LoopRound:
        """Begin the step of a round, with a second version for the service; does nothing if it has begun already.

        If the second version had another share of the users until now, the step starts again: with answers at both
        shares, a change of rewards over time would look like a difference between the versions.
        """
        step, before = current.step, self.store.second()
        other = before is not None and before.share != second.share
        if f"{step}_since" not in current.facts or other:
            facts = {f"{step}_since": evidence.last_answer(self.store), f"{step}_began": self.journal.clock()}
            current = self.journal.note(current, facts, told)
        if before != second:
            self.store.put_second(second)
        return current

    def _waited(self, current: LoopRound) -> float:
        """Seconds since the step of a round began; negative if the clock went back."""
        return (self.journal.clock() - int(current.facts[f"{current.step}_began"])) / 1e6

    def _mind_the_store(self) -> None:
        """If an earlier store was restored, restart all counts of answers, which would otherwise wait too long."""
        numbers, current = self.journal.numbers(), self.journal.current()
        given, happened = evidence.highest_number(self.store), evidence.happened(self.store)
        most = {"exported": happened, "last": given, "since": given}
        if lower := {name: top for name, top in most.items() if numbers.get(name, 0) > top}:
            self.journal.measure(**lower)  # also needed after erasures, which reduce `happened`
        facts = {} if current is None else current.facts
        until = facts.get("until", {})
        anew = {name: given for name, value in facts.items() if name.endswith("_since") and value > given}
        reached = max(numbers.get("last", 0), numbers.get("since", 0), until.get("last", 0), *map(facts.get, anew))
        if reached <= given:
            return
        told = f"an earlier store was restored: its answers ended at number {given:,}, and {reached:,.0f} was known"
        self.journal.tell("store", f"{told}; all counts of answers start again")
        if current is not None:
            began = {name.replace("_since", "_began"): self.journal.clock() for name in anew}
            until = {name: min(value, most[name]) for name, value in until.items()}
            self.journal.note(current, {**anew, **began, "until": until})

    def _mind_the_erased(self) -> None:
        """Remove users who were erased since the last look from the files of the rounds."""
        last = evidence.last_erasure(self.store)
        if last > self.journal.numbers().get("erased", 0):
            candidate.forget(self.store, self.folder)
            self.journal.measure(erased=last)

    def _measure(self, version: str) -> list[float]:
        """Record the deployed version's mean reward; returns the rewards of its answers, oldest first."""
        deployed = [one for one in self.store.deployments() if one.version == version][-1]
        since = int(self.journal.numbers().get("since", 0))
        found = evidence.answers(self.store, max(since, evidence.last_answer(self.store) - STREAM))
        own = found.filter(found["version"] == version)
        mean = Mean.of(own)
        if mean.users > 1:
            self.journal.measure(reward=mean.value, answers=mean.answers)
        if math.isfinite(mean.low):
            self.journal.measure(reward_low=mean.low, reward_high=mean.high)
        if "learned_until" not in self.journal.numbers():
            self.journal.measure(learned_until=deployed.time)
        rewards: list[float] = own["reward"].to_list()
        return rewards

    def _alarm(self, version: str, rewards: list[float]) -> str | None:
        """A message if the reward fell, or the share of unknown items rose, since this version was deployed."""
        delta = self.setup.loop.drift
        if not delta:
            return None
        known, since = candidate.items_of(self._agent(version)), int(self.journal.numbers().get("alarmed", 0))
        unknown = [float(item not in known) for item in evidence.recent_items(self.store, since, STREAM)]
        for what, values, sign in (("reward", rewards, -1), ("share of unknown items", unknown, 1)):
            found = evidence.change(values, delta)
            if found is not None and sign * (found[2] - found[1]) > 0:
                self.journal.measure(drift=1.0, alarmed=self.store.clock(), since=evidence.last_answer(self.store))
                told = f"drift: the {what} went from {found[1]:.3g} to {found[2]:.3g} (loop.drift)"
                self.journal.tell("drift", told)
                return told
        return None


def _moment(microseconds: float | int, later: float) -> str:
    """A time `later` seconds after a moment, for people."""
    seconds = min(microseconds / 1e6 + later, LATEST)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
