"""Every known algorithm keeps the promises of `what_next.testing`, and each check finds those that do not."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from what_next.algorithms import KNOWN, Algorithm
from what_next.algorithms.decision_transformer import DecisionTransformer
from what_next.algorithms.next_item import NextItem
from what_next.algorithms.reinforce import Reinforce
from what_next.algorithms.sqn import Sqn
from what_next.errors import SetupError
from what_next.testing import CHECKS, Rig, check_algorithm
from what_next.types import Events

ALGORITHMS = [kind() for kind in KNOWN]
ROOT = Path(__file__).resolve().parents[2]


class Acting(Reinforce):
    """As it learns in a world, from its own choices."""

    name: Literal["acting"] = "acting"  # type: ignore[assignment]
    source: ClassVar[str] = "world"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, Acting()], ids=lambda one: f"{one.name} {one.source}")
def test_every_algorithm(algorithm: Algorithm, check: str) -> None:
    CHECKS[check](algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: one.name)
@pytest.mark.filterwarnings("ignore:std.*degrees of freedom")
def test_losses_of_no_step_are_0(algorithm: Algorithm) -> None:
    rig = Rig(algorithm)
    batch = rig.batch(rig.history())
    found = rig.agent.propagate(replace(batch, mask=np.zeros_like(batch.mask)), rig.rng)
    assert found.targets == 0
    assert set(found.losses.values()) == {0.0}
    assert all(bool(value.isfinite().all()) for net in rig.weights().values() for value in net.values())


def test_no_two_algorithms_have_the_same_losses_and_proposals() -> None:
    """On one random batch, from one seed; after a step, since some learn alike at first."""
    shown = {}
    for algorithm in ALGORITHMS:
        rig = Rig(algorithm)
        rig.step()
        found = [round(loss.item(), 5) for loss in rig.losses(rig.batch(rig.history()), step=10_000).values()]
        points = rig.agent.eval().predict(rig.state.get_user_history(np.arange(5, dtype=np.int32))).points
        shown[algorithm.name] = found, points.round(5).tolist()
    for one, other in combinations(shown, 2):
        assert shown[one] != shown[other], f"{one} and {other} are the same"


class Undescribed(NextItem):
    """Has a setting without a description."""

    weight: float = 1.0


class Homeless(NextItem):
    """Updates a network that is not there."""

    updates: ClassVar[Mapping[str, tuple[str, ...]]] = {"actor": ("encoder", "twin")}


class Unnamed(NextItem):
    """Has a loss that `updates` does not know."""

    updates: ClassVar[Mapping[str, tuple[str, ...]]] = {"critic": ("encoder", "actor")}


class Plain(NextItem):
    """Whose loss is no tensor."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        return {"actor": 1.0}  # type: ignore[dict-item]


class Bare(NextItem):
    """Whose losses are no mapping."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        return super().losses(context)["actor"]  # type: ignore[return-value]


class Halving(Sqn):
    """Changes the rewards where they stand."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        context.batch.rewards.mul_(0.5)
        return super().losses(context)


class Sampling(NextItem):
    """Draws by torch, not from the context."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        return {"actor": context.cross_entropy(torch.rand(len(context.batch.actions)))}


class Idle(NextItem):
    """Its loss does not reach the encoder, which it updates."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        items = replace(context.items, vectors=context.items.vectors.detach())
        batch = replace(context.batch, states=context.batch.states.detach())
        return super().losses(replace(context, batch=batch, items=items))


class Chasing(Sqn):
    """Its target moves with the estimate."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        found, batch = super().losses(context), context.batch
        ahead = context.items.values(context.nets["critic"](batch.next_states), batch.actions)
        return {**found, "critic": found["critic"] + (batch.discounts * ahead).mean()}


class Meddling(NextItem):
    """Changes a network by its own hand."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        context.nets["behaviour"].linear.weight.data.add_(1.0)
        return super().losses(context)

    def networks(self, *given: Any) -> dict[str, torch.nn.Module]:
        return {**super().networks(*given), "behaviour": super().networks(*given)["actor"]}


class Jumping(Sqn):
    """Changes its target network by its own hand."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        context.targets["critic"].linear.weight.data.add_(1.0)
        return super().losses(context)


class Headlong(Sqn):
    """Has a target critic on the states and item vectors of the moment."""

    targets: ClassVar[tuple[str, ...]] = ("critic",)


class Prompted(DecisionTransformer):
    """Reads returns without a word of it."""

    reads_returns: ClassVar[bool] = False


class Endless(Sqn):
    """Looks beyond the end of a history."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        batch = replace(context.batch, discounts=torch.ones_like(context.batch.discounts))
        return super().losses(replace(context, batch=batch))


class Numbered(NextItem):
    """Gives the encoder one number more."""

    extra_features: ClassVar[int] = 1

    def number(self, items: Tensor) -> Tensor:
        raise NotImplementedError

    def inputs(self, events: Events, returns: Tensor | None) -> Events:
        number = self.number(events.items).float().unsqueeze(-1)
        return Events(events.items, torch.cat([events.numbers, number], -1))


class Proportional(NextItem):
    """Weighs a step by its part of all rewards, of which there may be none."""

    def losses(self, context: Any) -> dict[str, Tensor]:
        rewards = context.batch.rewards
        return {"actor": context.cross_entropy(rewards / rewards.sum())}


class Padded(Numbered):
    """Reads how wide the batch is."""

    def number(self, items: Tensor) -> Tensor:
        return torch.full_like(items, items.shape[1])


class Clairvoyant(Numbered):
    """Reads the item that comes next."""

    def number(self, items: Tensor) -> Tensor:
        return items.roll(-1, 1)


class Backwards(Numbered):
    """Reads how many events are to come."""

    def number(self, items: Tensor) -> Tensor:
        return torch.arange(items.shape[1]).flip(0).expand_as(items)


class Moody(NextItem):
    """Has random numbers of its own."""

    def losses(self, *given: Any) -> dict[str, Tensor]:
        return {"actor": super().losses(*given)["actor"] * float(np.random.default_rng().random())}


class Restless(NextItem):
    """Proposes at random without being asked to."""

    def propose(self, nets: Any, states: Tensor, rng: Any = None) -> Tensor:
        return torch.randn_like(states)


class Secretive(Sqn):
    """Proposes by the critic, and does not say so."""

    def propose(self, nets: Any, states: Tensor, rng: Any = None) -> Tensor:
        return nets["critic"](states)[..., :-1]


BROKEN = [
    (Undescribed, "describes_its_settings", "no description: weight"),
    (Homeless, "names_networks_that_exist", "the loss 'actor' of 'broken' updates ('encoder', 'twin'); expected"),
    (Unnamed, "names_networks_that_exist", "losses of 'broken' gives ['actor']; expected a loss for each of"),
    (Plain, "names_networks_that_exist", "the loss 'actor' of 'broken' is float; expected a tensor of one number"),
    (Bare, "names_networks_that_exist", "losses of 'broken' gives Tensor; expected a loss for each of ['actor']"),
    (Halving, "leaves_the_batch_as_it_is", "losses change rewards of the batch; change a copy (`clone`)"),
    (Sampling, "leaves_the_batch_as_it_is", "another loss the second time; draw by context.draw: 'actor' is"),
    (Idle, "losses_reach_what_they_update", "updates ['encoder'], but has no gradient for it"),
    (Chasing, "losses_reach_what_they_update", "'critic': its target carries a gradient"),
    (Meddling, "updates_what_it_names", "{'behaviour'} changed, and no loss that was due updates it"),
    (Jumping, "target_networks_follow", "the target network of 'critic' does not follow by a tau of"),
    (Headlong, "targets_stand_still", "next states follow the encoder at once; name it in targets"),
    (Endless, "ends_are_ends", "what follows the end of a history changes the loss"),
    (Proportional, "learns_from_what_was_shown", "the loss 'actor' on a service's decisions is nan"),
    (Padded, "padding_is_nothing", "padding changes the loss"),
    (Clairvoyant, "sees_no_future", "other events from number 4 on change what is computed before them"),
    (Prompted, "sees_no_future", "other events from number 4 on change what is computed before them"),
    (Moody, "repeats_itself", "two runs from one seed differ"),
    (Restless, "recommends", "two calls recommend different items"),
    (Secretive, "survives_saving", "by the network 'critic', which is not in the agent's file; `needs_critic`"),
    (Backwards, "streams", "event by event its proposals differ"),
]


def named(kind: type[Algorithm]) -> Algorithm:
    """One of a class with a name of its own, without which no setup takes it."""
    own = {"__annotations__": {"name": Literal["broken"]}, "name": "broken"}
    return type(kind.__name__, (kind,), own)()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("broken", "check", "told"), BROKEN, ids=[kind.__name__ for kind, *_ in BROKEN])
def test_a_check_finds_what_it_looks_for(broken: type[Algorithm], check: str, told: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(told)):
        CHECKS[check](named(broken))


def test_every_check_finds_something() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_the_checks_together_find_it_as_well() -> None:
    with pytest.raises(AssertionError, match="padding changes the loss"):
        check_algorithm(named(Padded))


def test_the_name_of_another_algorithm_is_refused() -> None:
    with pytest.raises(SetupError, match=r"Padded is called '.*' as .* is, which a saved model would be loaded as"):
        check_algorithm(Padded())


class TestContributing:
    """The worked example of CONTRIBUTING.md is an algorithm, as it stands there."""

    @pytest.fixture
    def example(self) -> str:
        (found,) = re.findall(
            r"```python\n(.*?class .*?\(Algorithm\).*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S
        )
        return found

    def test_it_is_short(self, example: str) -> None:
        assert len(example.splitlines()) < 40

    def test_it_keeps_every_promise(self, example: str, tmp_path: Path) -> None:
        path = tmp_path / "liked.py"
        path.write_text(example)
        spec = importlib.util.spec_from_file_location("liked", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        check_algorithm(module.Liked())
