"""An algorithm of one's own, given from Python: trained, saved, loaded again; and found by its entry point."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import what_next as wn
from what_next.algorithms import Algorithm, Sqn
from what_next.algorithms.base import LossContext, Networks
from what_next.errors import ModelError, SetupError, TrainingError
from what_next.models.heads import Point
from what_next.settings.setup import ALGORITHMS
from what_next.types import Request, Transitions

from .conftest import SetupOf
from .forked import Forked


class Liked(Algorithm):
    """Cross entropy of what came next, weighted by the reward."""

    name: Literal["liked"] = "liked"
    temperature: float = 1.0
    updates: ClassVar[Mapping[str, tuple[str, ...]]] = {"actor": ("encoder", "actor")}

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        return {"actor": context.cross_entropy((context.batch.rewards / self.temperature).exp().clamp(max=20.0))}


@pytest.fixture(scope="module")
def saved(setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, wn.Environment]:
    folder = tmp_path_factory.mktemp("liked")
    setup = setup_of(folder, algorithm=Liked(temperature=2.0), window=None, epochs=60, max_length=20)
    environment = wn.Environment.from_setup(setup)
    environment.run_sim()
    return folder / "agent.safetensors", environment


def test_it_is_loaded_by_its_class_and_recommends_the_same(saved: tuple[Path, wn.Environment]) -> None:
    path, trained = saved
    loaded = wn.load(path, algorithm=Liked)
    assert loaded.policy.agent.setup.algorithm == Liked(temperature=2.0)
    history = trained.state.get_user_history(np.arange(5, dtype=np.int32))
    mine = wn.LearnedPolicy(trained.agent.eval(), trained.state)
    slates = [one.act(one.states(history), Request(5)).items for one in (mine, loaded.policy)]
    np.testing.assert_array_equal(*slates)


def test_without_its_class_the_message_says_how(saved: tuple[Path, wn.Environment]) -> None:
    with pytest.raises(ModelError, match=r"algorithm 'liked', which is not known here.*algorithm=Class"):
        wn.load(saved[0])

    class Loved(Liked):
        name: Literal["loved"] = "loved"  # type: ignore[assignment]

    told = "algorithm 'liked', and the class that was given, Loved, is called 'loved'; give the class of 'liked'"
    with pytest.raises(ModelError, match=told):
        wn.load(saved[0], algorithm=Loved)


def test_a_class_with_the_name_of_one_of_ours_opens_no_model_of_it(setup_of: SetupOf, tmp_path: Path) -> None:
    class Mine(Sqn):
        """As earlier versions trained and saved it."""

    setup = setup_of(tmp_path, algorithm="sqn", window=None, epochs=60, max_length=20)
    wn.Environment.from_setup(setup).run_sim()
    with pytest.raises(ModelError, match=r"agent.safetensors: was trained by 'sqn', .*; give Mine a name of its own"):
        wn.load(setup.model_agent_path, algorithm=Mine)


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        (None, "gives NoneType; expected a loss for each of"),
        ({"actor": torch.ones(()), "critic": torch.ones(())}, r"gives \['actor', 'critic'\]; expected"),
        ({}, r"losses of 'liked' gives none at any of \d+ steps"),
        ({"actor": torch.ones(3)}, r"the loss 'actor' of 'liked' is a tensor of shape \(3,\)"),
        ({"actor": 1.0}, "the loss 'actor' of 'liked' is float; expected a tensor of one number"),
        ({"actor": torch.ones(())}, "the loss 'actor' of 'liked' teaches nothing: it has no gradient"),
    ],
)
def test_what_is_no_loss_is_told(saved: tuple[Path, wn.Environment], losses: object, told: str) -> None:
    class Wrong(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            return losses  # type: ignore[return-value]

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Wrong()})
    with pytest.raises(TrainingError, match=told):
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (lambda loss: loss, None),
        (lambda loss: np.float32(2), None),
        (lambda loss: loss.expand(3), r"the metric 'mine' of 'liked' is of shape \(3,\); expected a number"),
        (lambda loss: "high", "the metric 'mine' of 'liked' is str; expected a number"),
    ],
)
def test_a_metric_is_a_number_or_a_tensor_of_one(
    saved: tuple[Path, wn.Environment], metric: Callable[[Tensor], object], told: str | None
) -> None:
    class Measured(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            losses = super().losses(context)
            context.metrics["mine"] = metric(losses["actor"])  # type: ignore[assignment]
            return losses

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Measured()})
    environment = wn.Environment(wn.Agent(setup, state.space), state, setup, force=True)
    if told is None:
        environment.run_sim()
        assert '"note_mine": ' in setup.log_path.read_text()
    else:
        with pytest.raises(TrainingError, match=told):
            environment.run_sim()


@pytest.mark.parametrize("idle", ["encoder", "actor"])
def test_a_network_that_its_loss_never_reaches_is_told(saved: tuple[Path, wn.Environment], idle: str) -> None:
    class Wrong(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            states = context.batch.states
            points = states if idle == "actor" else context.nets["actor"](states.detach())
            return {"actor": points.square().mean()}

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Wrong(), "batch_size": 4})
    state = wn.State(state.dataset, setup)
    with pytest.raises(TrainingError, match=f"'actor' of 'liked' updates {idle}, and had no gradient for it in"):
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()


def test_memory_that_runs_out_in_losses_is_told_as_what_it_is(saved: tuple[Path, wn.Environment]) -> None:
    class Large(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            raise MemoryError

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Large()})
    with pytest.raises(MemoryError):
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()


def test_losses_that_fail_are_told_with_their_line(saved: tuple[Path, wn.Environment]) -> None:
    class Wrong(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            return {"actor": context.batch.nothing}  # type: ignore[attr-defined]

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Wrong()})
    told = r"losses of 'liked' failed: AttributeError.*no attribute 'nothing'.*test_own_algorithms.py, line \d"
    with pytest.raises(SetupError, match=told) as found:
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()
    assert isinstance(found.value.__cause__, AttributeError)


def test_a_network_that_losses_look_up_in_vain_is_told_with_those_there_are(saved: tuple[Path, wn.Environment]) -> None:
    class Wrong(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            return {"actor": context.values().mean()}

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Wrong()})
    told = r"critic; there are the networks encoder, actor, and no target copies.*test_own_algorithms.py, line \d"
    with pytest.raises(SetupError, match=told):
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()


def test_a_loss_of_ones_own_that_is_not_finite_is_looked_for_there_first(saved: tuple[Path, wn.Environment]) -> None:
    class Wrong(Liked):
        def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
            return {"actor": context.cross_entropy((context.batch.rewards * 0).log())}

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Wrong()})
    with pytest.raises(
        TrainingError, match=r"is (-inf|inf|nan).* Look for a logarithm of 0 .* in the losses of 'liked'"
    ):
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()


class Nameless(Algorithm):
    """Which leaves its name to whoever makes it."""

    updates: ClassVar[Mapping[str, tuple[str, ...]]] = {"actor": ("encoder", "actor")}


def test_a_class_that_its_name_alone_could_not_make_is_refused(
    setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sqn(Liked):
        name: Literal["sqn"] = "sqn"  # type: ignore[assignment]

    class Warmer(Liked):
        """Which inherits the name of an installed one."""

    monkeypatch.setitem(ALGORITHMS.found, "liked", Liked)
    for algorithm, told in (
        (Nameless(name="x"), "Nameless has no default for name; each field of an algorithm needs one"),
        (Sqn(), r"Sqn is called 'sqn' as Sqn is, .* such as `name: Literal\[\"my_sqn\"\] = \"my_sqn\"`"),
        (Warmer(), "Warmer is called 'liked' as Liked is, which a saved model would be loaded as; give it a name of"),
    ):
        with pytest.raises(SetupError, match=told):
            setup_of(tmp_path, algorithm=algorithm)


def only(**heads: nn.Module) -> Callable[..., Networks]:
    """An algorithm's `networks` that gives these, whatever it is asked for."""
    return lambda *_: heads


@pytest.mark.parametrize(
    ("updated", "told"),
    [
        (("encoder", "acto"), r"the loss 'actor' of 'liked' updates .*'acto'.*, which are encoder, actor"),
        ("actor", "updates 'actor'; expected a tuple of names of its networks"),
        (None, "updates of 'liked' is empty; name each loss there"),
    ],
)
def test_a_network_that_is_not_there_is_told(saved: tuple[Path, wn.Environment], updated: Any, told: str) -> None:
    class Wrong(Liked):
        updates: ClassVar[Mapping[str, tuple[str, ...]]] = {"actor": updated} if updated else {}

    agent, state = saved[1].agent, saved[1].state
    setup = agent.setup.model_copy(update={"algorithm": Wrong()})
    with pytest.raises(TrainingError, match=told):
        wn.Environment(wn.Agent(setup, state.space), state, setup, force=True).run_sim()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"targets": ("critic",)}, "targets has critic; its networks are encoder, actor"),
        ({"monitors": ("recall@10",)}, "monitors has 'recall@10', which nothing measures; there are ndcg@10, hr@10"),
        (
            {"networks": only(actor=Point(8), encoder=Point(8))},
            "networks gives an 'encoder', which the setup's model is",
        ),
        (
            {"networks": only(policy=Point(8)), "updates": {"actor": ("policy",)}},
            "propose reads the network 'actor', and networks gives encoder, policy",
        ),
        (
            {"propose": lambda self, nets, states, rng=None: states[..., :5]},
            "gives points of 5 columns, and items have 8",
        ),
    ],
)
def test_what_does_not_go_together_is_told_before_the_first_step(
    saved: tuple[Path, wn.Environment], changes: dict[str, Any], told: str
) -> None:
    agent = saved[1].agent
    wrong = type("Wrong", (Liked,), {"__annotations__": dict.fromkeys(changes, ClassVar), **changes})
    setup = agent.setup.model_copy(update={"algorithm": wrong(), "dim": 8})
    with pytest.raises(SetupError, match=told):
        wn.Agent(setup, agent.space).wake_agent()


def test_a_network_without_a_file_is_told_before_the_first_step(saved: tuple[Path, wn.Environment]) -> None:
    """Though no loss updates it."""
    agent, annotated = saved[1].agent, {"__annotations__": {"networks": ClassVar}}
    spare = type("Spare", (Liked,), {**annotated, "networks": only(actor=Point(8), spare=Point(8))})
    setup = agent.setup.model_copy(update={"algorithm": spare(), "dim": 8, "model_critic_path": None})
    with pytest.raises(SetupError, match=r"'model_critic_path' is missing, .* networks that are saved there \(spare\)"):
        wn.Agent(setup, agent.space).wake_agent()


MODULE = """
{imports}
from typing import ClassVar, Literal

class Mine(Algorithm):
    name: Literal["mine"] = "mine"
    updates: ClassVar = {{"actor": ("encoder", "actor")}}
"""
IMPORTS = {
    "from the module": "from what_next.algorithms import Algorithm",
    "from the base": "from what_next.algorithms.base import Algorithm",
    "from the package": "import what_next as wn\nAlgorithm = wn.Algorithm",
    "with the settings": "from what_next import Algorithm, Setup, load",
}


SCRIPT = """
import {first}; import mine, what_next
setup = what_next.Setup.from_text("train, yes, data, d, algorithm, mine, model_agent_path, a.safetensors")
assert type(setup.algorithm) is mine.Mine, setup.algorithm
assert "mine" in what_next.settings.ALGORITHMS
"""


@pytest.fixture(scope="module", params=IMPORTS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package that imports `Algorithm` in one of the ways."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MODULE.format(imports=IMPORTS[request.param]))
    facts = folder / "mine-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[what_next.algorithms]\nmine = mine:Mine\n")
    return folder


@pytest.mark.medium
@pytest.mark.parametrize("first", ["mine", "what_next"])
def test_its_entry_point_is_found_whichever_is_imported_first(forked: Forked, package: Path, first: str) -> None:
    found = forked.run(code=SCRIPT.format(first=first), path=[package], folder=package, strict=True)
    assert found.returncode == 0, found.stderr
