"""The contract of every algorithm, checked on a tiny agent. Run it on your own algorithm:

    from what_next.testing import check_algorithm

    check_algorithm(MyAlgorithm())

Or one check at a time in pytest: `@pytest.mark.parametrize("name", CHECKS)`, and `CHECKS[name](algorithm)`.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from what_next.agent import Agent
from what_next.algorithms import Algorithm
from what_next.algorithms.base import LossContext
from what_next.errors import ModelError, TrainingError, some
from what_next.models.encoders import Encoder
from what_next.policy import LearnedPolicy
from what_next.testing.parts import given
from what_next.testing.rig import Rig, Weights, other_events, padded, reaches
from what_next.training import checkpoint
from what_next.training.step import Step, losses_of
from what_next.types import Batch, Events, Permitted, Request, Transitions

STEPS = 4
"""Number of steps within which every loss must be due once and update its networks (delayed losses are not due at
once)."""


def check_algorithm(algorithm: Algorithm) -> None:
    """Run every check of `CHECKS`.

    Raises:
        AssertionError: a check failed; the message says which and how.
        SetupError: `algorithm` is no `Algorithm`, or its networks, points or targets do not fit together, which
            training refuses, too.
    """
    given(algorithm, Algorithm)
    for check in CHECKS.values():
        check(algorithm)


def describes_its_settings(algorithm: Algorithm) -> None:
    """Each setting has a description, and the algorithm can be rebuilt from the settings in a model file."""
    fields = type(algorithm).model_fields
    silent = [name for name, field in fields.items() if name != "name" and not field.description]
    _expect(not silent, algorithm, f"no description: {', '.join(silent)}")
    _expect(fields["name"].default == algorithm.name, algorithm, f"its name by default is {fields['name'].default!r}")
    again = type(algorithm).model_validate(algorithm.model_dump(mode="json"))
    _expect(again == algorithm, algorithm, f"rebuilt from its settings it is {again!r}")


def names_networks_that_exist(algorithm: Algorithm) -> None:
    """`updates` and `targets` name existing networks, and `losses` returns only losses that `updates` names."""
    rig = Rig(algorithm)
    try:
        found = losses_of(algorithm, rig.context(rig.batch(rig.history())), rig.agent.nets)
    except TrainingError as error:
        raise AssertionError(f"{algorithm.name}: {error}") from error
    _expect(bool(found), algorithm, "no loss is due at the first step")
    for loss, value in found.items():
        _expect(bool(value.isfinite()), algorithm, f"the loss {loss!r} is {value}; expected a finite number")


def leaves_the_batch_as_it_is(algorithm: Algorithm) -> None:
    """Losses change nothing of a batch, and a second call gives the same: all random numbers come from the context."""
    rig = Rig(algorithm)
    history = rig.history()
    context = rig.context(rig.batch(history))
    read = {name: value.clone() for name, value in vars(context.batch).items() if isinstance(value, Tensor)}
    first = algorithm.losses(context)
    changed = [name for name, value in read.items() if not torch.equal(getattr(context.batch, name), value)]
    _expect(not changed, algorithm, f"losses change {some(changed)} of the batch; change a copy (`clone`)")
    second = rig.losses(rig.batch(history))
    _same(first, second, algorithm, "the same batch has another loss the second time; draw by context.draw")


def losses_reach_what_they_update(algorithm: Algorithm) -> None:
    """Every loss has a gradient for each network that it updates, and none for bootstrap targets or target networks."""
    rig, due, reached = Rig(algorithm), set[str](), set[tuple[str, str]]()
    for step in range(STEPS):
        context = rig.context(rig.batch(rig.history()), step)
        batch = context.batch
        if isinstance(batch, Transitions):
            batch.next_states.requires_grad_()
        found = algorithm.losses(context)
        copied = [weight for net in rig.agent.targets.values() for weight in net.parameters()]
        _expect(not any(weight.requires_grad for weight in copied), algorithm, "a target network requires a gradient")
        for loss, value in found.items():
            if isinstance(batch, Transitions):
                _expect(not reaches(value, [batch.next_states]), algorithm, f"{loss!r}: its target carries a gradient")
            due.add(loss)
            reached |= {(loss, name) for name in algorithm.updates[loss] if reaches(value, _ends(context, name))}
        rig.step()
    for loss in due:
        idle = [name for name in algorithm.updates[loss] if (loss, name) not in reached]
        _expect(not idle, algorithm, f"the loss {loss!r} updates {idle}, but has no gradient for it")


def updates_what_it_names(algorithm: Algorithm) -> None:
    """A step changes the networks of the losses that were due, and no other network."""
    rig = Rig(algorithm)
    for _ in range(STEPS):
        before, found = rig.weights(), rig.step()
        _changed(rig, before, found)


def learns_from_what_was_shown(algorithm: Algorithm) -> None:
    """From a service's decisions it computes losses that `updates` names, finite even if no shown item earned a reward;
    their targets carry no gradient, and a step changes only the networks that these losses update."""
    if not algorithm.learns_from_decisions():
        return
    rig = Rig(algorithm)
    for brought in (True, False, True, True):
        batch = rig.shown(rig.batch(rig.history()), brought=brought)
        context = rig.context(batch, rig.agent.steps)
        context.batch.next_states.requires_grad_()
        for loss, value in algorithm.losses(context).items():
            _expect(loss in algorithm.updates, algorithm, f"the loss {loss!r} is not in updates")
            _expect(bool(value.isfinite()), algorithm, f"the loss {loss!r} on a service's decisions is {value}")
            _expect(not reaches(value, [context.batch.next_states]), algorithm, f"{loss!r}: its target has a gradient")
        before, found = rig.weights(), rig.agent.propagate(batch, rig.rng)
        _expect(bool(_changed(rig, before, found)) or not brought, algorithm, "a service's decisions change no network")


def target_networks_follow(algorithm: Algorithm) -> None:
    """Target networks start as copies, move by tau towards networks that were updated, and otherwise stay the same."""
    rig = Rig(algorithm)
    nets = rig.weights()
    for name, copied in rig.weights(targets=True).items():
        _expect(
            all(torch.equal(copied[key], nets[name][key]) for key in copied), algorithm, f"{name!r} starts elsewhere"
        )
    for _ in range(STEPS):
        before, found = rig.weights(targets=True), rig.step()
        updated = {name for loss in found.losses for name in algorithm.updates[loss]}
        nets, after = rig.weights(), rig.weights(targets=True)
        for name, copied in after.items():
            tau = algorithm.polyak if name in updated else 0.0
            for key, value in copied.items():
                first, last = (one[name][key].double() for one in (before, nets))  # a buffer may hold whole numbers
                close = torch.allclose(value.double(), torch.lerp(first, last, tau), atol=1e-7)
                _expect(close, algorithm, f"the target network of {name!r} does not follow by a tau of {tau:g}")


def targets_stand_still(algorithm: Algorithm) -> None:
    """The inputs of targets change only with the target networks, not with the encoder's weights or dropout."""
    rig = Rig(algorithm, dropout=0.5)
    history, seen = rig.history(), []
    for _ in range(2):
        context = rig.context(rig.batch(history))
        batch = context.batch
        if not (algorithm.targets and isinstance(batch, Transitions)):
            return
        seen.append((batch.next_states, batch.target_states, context.items.target.clone()))
        with torch.no_grad():
            for weight in rig.agent.nets["encoder"].parameters():
                weight.add_(torch.randn_like(weight))
    for name, before, after in zip(("next states", "target states", "target item vectors"), *seen, strict=True):
        _expect(torch.equal(before, after), algorithm, f"{name} follow the encoder at once; name it in targets")


def ends_are_ends(algorithm: Algorithm) -> None:
    """At the end of a history (discount 0), the next state and the next item change no loss."""
    rig = Rig(algorithm)
    batch = rig.context(rig.batch(rig.history())).batch
    if not isinstance(batch, Transitions):
        return
    ended = replace(batch, discounts=torch.zeros_like(batch.discounts))
    other = replace(ended, next_states=ended.next_states + 5, next_actions=torch.full_like(ended.next_actions, -1))
    first, second = (
        algorithm.losses(replace(rig.context(rig.batch(rig.history())), batch=steps)) for steps in (ended, other)
    )
    _same(first, second, algorithm, "what follows the end of a history changes the loss")


def padding_is_nothing(algorithm: Algorithm) -> None:
    """More padding at the end of the histories, with numbers other than 0 in it, changes no loss."""
    rig = Rig(algorithm)
    history = rig.history()
    plain, wide = (rig.losses(rig.batch(some)) for some in (history, padded(history, 3)))
    _same(plain, wide, algorithm, "padding changes the loss")


def sees_no_future(algorithm: Algorithm) -> None:
    """Whatever is computed from a history up to an event does not depend on later events; nor on their rewards, unless
    the algorithm declares that it `reads_returns` in training."""
    rig = Rig(algorithm)
    history, since = rig.history(), 4
    changed = other_events(history, since, len(rig.state.space.catalogue))
    rig.agent.eval()
    batches = [rig.batch(history), rig.batch(changed)]
    if not algorithm.reads_returns:  # with `reads_returns`, returns are an input, and other labels change the result
        batches[1] = _other_labels(batches[1], since)
    else:
        batches[1] = replace(batches[1], returns=batches[0].returns)
    before, after = (_known(rig, batch, since) for batch in batches)
    same = np.allclose(before, after, atol=1e-5)
    _expect(same, algorithm, f"other events from number {since} on change what is computed before them")


def repeats_itself(algorithm: Algorithm) -> None:
    """The same seed gives the same training and the same proposals."""
    first, second = Rig(algorithm, seed=3), Rig(algorithm, seed=3)
    for _ in range(STEPS):
        _expect(first.step() == second.step(), algorithm, "two runs from one seed differ")
    _expect(
        np.array_equal(_points(first.agent, first), _points(second.agent, second)), algorithm, "they propose otherwise"
    )


def recommends(algorithm: Algorithm) -> None:
    """A slate has distinct items, none excluded, with the right propensities; without random numbers it is
    repeatable."""
    rig = Rig(algorithm)
    rig.step()
    history = rig.state.get_user_history(np.arange(5, dtype=np.int32))
    policy = LearnedPolicy(rig.agent.eval(), rig.state)
    request = Request(4, policy.sampler, Permitted.of(without=history.items))
    states = policy.states(history)
    slate = policy.act(states, request, np.random.default_rng(0))
    for row, heard in zip(slate.items.tolist(), history.items.tolist(), strict=True):
        _expect(len(set(row)) == 4 and min(row) >= 0, algorithm, f"a slate of four items is {row}")
        _expect(not set(row) & set(heard), algorithm, f"the slate {row} has items that are excluded")
    chances = slate.propensities
    _expect(chances is not None and bool(((chances > 0) & (chances <= 1)).all()), algorithm, f"propensities {chances}")
    judged = policy.propensities(states, request, slate.items)
    _expect(
        chances is not None and np.allclose(chances, judged, rtol=1e-5, atol=1e-9),
        algorithm,
        f"{chances} were told, and {judged} judged",
    )
    first, second = (policy.act(policy.states(history), Request(4)).items for _ in range(2))
    _expect(np.array_equal(first, second), algorithm, "without random numbers, two calls recommend different items")


def survives_saving(algorithm: Algorithm) -> None:
    """A saved and loaded agent recommends the same; from encoder and actor alone unless `needs_critic`."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(algorithm, Path(folder))
        rig.step()
        checkpoint.save(rig.agent, rig.rng, checkpoint.new_run())
        # The critic's path is left out, and looked up only where `needs_critic` is true.
        setup = rig.setup.model_copy(update={"model_critic_path": None})
        fresh = Agent(setup, rig.agent.space).ready_agent()
    try:
        same = np.array_equal(_points(rig.agent, rig), _points(fresh, rig))
    except ModelError as error:
        raise AssertionError(str(error)) from error
    _expect(same, algorithm, "after loading, its proposals differ")


def streams(algorithm: Algorithm) -> None:
    """Reading a history event by event gives the same proposal as reading it at once."""
    rig = Rig(algorithm)
    encoder = rig.agent.eval().nets.get("encoder")
    if not isinstance(encoder, Encoder):
        return
    history = rig.state.get_user_history(np.arange(5, dtype=np.int32))
    items, numbers = torch.from_numpy(history.items).long(), torch.from_numpy(rig.agent.factorize(history).actor)
    with torch.no_grad():
        state, after = encoder.start(len(items)), []
        for place in range(items.shape[1]):
            one = Events(items[:, place : place + 1], numbers[:, place : place + 1])
            states, state = encoder.step(state, algorithm.inputs(one, None))
            after.append(states)
        last = torch.stack(after, 1)[torch.arange(len(items)), torch.from_numpy(history.lengths - 1)]
        points = algorithm.propose(rig.agent.nets, last).numpy()
    close = np.allclose(points, rig.agent.predict(history).points, atol=1e-4)
    _expect(close, algorithm, "event by event its proposals differ from those for the whole history")


_ALL = (
    describes_its_settings, names_networks_that_exist, leaves_the_batch_as_it_is, losses_reach_what_they_update,
    updates_what_it_names, learns_from_what_was_shown, target_networks_follow, targets_stand_still, ends_are_ends,
    padding_is_nothing, sees_no_future, repeats_itself, recommends, survives_saving, streams,
)  # fmt: skip
CHECKS: Mapping[str, Callable[[Algorithm], None]] = MappingProxyType({check.__name__: check for check in _ALL})
"""Every check, by its name."""


def _changed(rig: Rig, before: Weights, found: Step) -> set[str]:
    """The networks that a step has changed, which must be among those of the losses that were due."""
    after, algorithm = rig.weights(), rig.algorithm
    changed = {
        name for name in after if any(not torch.equal(before[name][key], after[name][key]) for key in after[name])
    }
    named = {name for loss in found.losses for name in algorithm.updates[loss]}
    _expect(changed <= named, algorithm, f"{changed - named} changed, and no loss that was due updates it")
    return changed


def _ends(context: LossContext[Any], name: str) -> list[Tensor]:
    """The tensors at which the gradient of a network ends: its weights, or the states for the encoder."""
    roots = context.roots.get(name, ())
    return [root.leaf for root in roots] or list(context.nets[name].parameters())


def _known(rig: Rig, batch: Batch, since: int) -> np.ndarray:
    """What the networks compute from the events before a column: the encoder's states, or the actor's choice."""
    steps = rig.context(batch).batch
    if not isinstance(steps, Transitions):
        factors = batch.factors
        read = torch.from_numpy(factors.actor), torch.from_numpy(factors.prospects)
        return rig.algorithm.propose(rig.agent.nets, read)[:, :since].numpy()  # type: ignore[arg-type]
    _, columns = np.nonzero(batch.mask)
    return steps.states.detach().numpy()[columns < since]


def _other_labels(batch: Batch, since: int) -> Batch:
    """The batch with other rewards and returns from a column on, and after each row."""
    rewards, returns = batch.rewards.copy(), batch.returns
    rewards[:, since:] = rewards[::-1, since:] ** 2 + 3
    return replace(batch, rewards=rewards, returns=None if returns is None else returns[::-1] ** 2 + 3)


def _points(agent: Agent, rig: Rig) -> np.ndarray:
    """An agent's proposals for five users."""
    return agent.eval().predict(rig.state.get_user_history(np.arange(5, dtype=np.int32))).points


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], algorithm: Algorithm, broken: str) -> None:
    for name, loss in first.items():
        found = second[name].item()
        close = abs(loss.item() - found) <= 1e-5 * max(1.0, abs(found))
        _expect(close, algorithm, f"{broken}: {name!r} is {loss.item():g} and then {found:g}")


def _expect(true: bool, algorithm: Algorithm, broken: str) -> None:
    if not true:
        raise AssertionError(f"{algorithm.name}: {broken}")
