"""Two policies share the users: who is whose, what the log says of it, and what is told of what they earned."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from what_next.errors import ModelError, SetupError
from what_next.serving.engine.experiment import Watch
from what_next.serving.engine.live import check_models
from what_next.serving.engine.versions import keep, versions_folder
from what_next.serving.store import AddFeedback, AddImpression, Second, Store, rewards
from what_next.serving.store.export import exported
from what_next.serving.store.rewards import earned

from .endpoint import service as endpoint
from .engines import Service, in_time, running
from .models import served
from .test_engine_changes import another
from .waiting import impressions_of

HISTORY = ("i3", "i14", "i15", "i9", "i26")
PEOPLE = [f"p{one}" for one in range(120)]


def answered(service: Service, reward: dict[str, float], users: list[str] = PEOPLE) -> dict[str, str]:
    """Each user asks once, and the first item brings what its policy brings; returns the policies."""
    found = {}
    for user in users:
        answer = service.ask(user=user, history=HISTORY, k=2)
        found[user] = answer.policy
        row = AddFeedback(f"f{user}", answer.recommendation_id, answer.ids[0], reward[answer.policy])
        service.store.commit([row])
    return found


class TestArms:
    @pytest.mark.medium
    def test_users_are_shared_by_a_hash_and_stay_whose_they_are(self, tmp_path: Path) -> None:
        setup = served(tmp_path, experiment="trained:popular", deadline=5000)
        with running(setup) as service:
            first = {user: service.ask(user=user, history=HISTORY).policy for user in PEOPLE}
            assert 40 < list(first.values()).count("popular") < 80
            assert {user: service.ask(user=user, history=HISTORY).policy for user in PEOPLE} == first
        with running(setup) as again:
            assert {user: again.ask(user=user, history=HISTORY).policy for user in PEOPLE} == first

    def test_a_share_of_the_users(self, tmp_path: Path) -> None:
        with running(served(tmp_path, experiment="trained:random", experiment_share=0.1, deadline=5000)) as service:
            policies = [service.ask(user=user, history=HISTORY).policy for user in PEOPLE]
            assert 3 <= policies.count("random") <= 24

    def test_who_has_no_name_or_asks_for_a_policy_or_for_none_belongs_to_none(self, tmp_path: Path) -> None:
        with running(served(tmp_path, experiment="popular:random", deadline=5000)) as service:
            assert service.ask(history=HISTORY).policy == "trained"
            for user in PEOPLE[:8]:
                assert service.ask(user=user, history=HISTORY, policy="popular").policy == "popular"
                assert service.ask(user=user, history=HISTORY, experiment=False).policy == "trained"
            assert len(earned(service.store, "popular:random", "random", 0.5)[0]) == 0

    def test_the_arm_is_logged_with_each_answer(self, tmp_path: Path) -> None:
        with running(served(tmp_path, experiment="trained:popular", deadline=5000)) as service:
            policy = service.ask(user="p1", history=HISTORY).policy
            (impression,) = impressions_of(service.store, "p1")
            assert (impression.explore["experiment"], impression.explore["arm"]) == ("trained:popular", policy)
            service.ask(history=HISTORY)
            log = exported(service.store, service.engine.models.live.current.served.catalogue).rows.collect()
            assert set(log["arm"].unique()) == {policy, None}
            assert set(log["experiment"].unique()) == {"trained:popular", None}

    def test_a_version_may_be_an_arm(self, tmp_path: Path) -> None:
        second = another(tmp_path / "second")
        folder = tmp_path / "first"
        folder.mkdir()
        version = keep(versions_folder(served(folder)), second.model_agent_path)
        with running(served(folder, experiment=f"trained:{version}", deadline=5000)) as service:
            found = {service.ask(user=user, history=HISTORY).version for user in PEOPLE[:20]}
            assert found == {version, service.engine.model()["version"]}
            assert service.ask(history=HISTORY).version != version

    def test_an_arm_whose_model_cannot_be_loaded_is_none(self, tmp_path: Path) -> None:
        second = another(tmp_path / "second")
        folder = tmp_path / "first"
        folder.mkdir()
        place = versions_folder(served(folder))
        version = keep(place, second.model_agent_path)
        (place / version / "agent.safetensors").write_bytes(b"damaged")
        with running(served(folder, experiment=f"trained:{version}", deadline=5000)) as service:
            assert service.engine.model()["unfit"]["version"] == version
            for user in PEOPLE[:40]:
                assert service.ask(user=user, history=HISTORY).role == "current"
            arms = [one.explore.get("arm") for user in PEOPLE[:40] for one in impressions_of(service.store, user)]
            assert set(arms) == {"trained", None}


def test_an_experiment_that_ends_while_it_is_read_breaks_nothing() -> None:
    class Ending(Watch):
        found: ClassVar[list[Any]] = [{"difference": {"mean": 0.5}}, None, None]

        def __init__(self) -> None:
            """Without its thread."""

        @property
        def now(self) -> Any:  # type: ignore[override]
            return self.found.pop(0)

    assert Ending().number("mean") == 0.5
    assert np.isnan(Ending().number("mean"))


class TestEarned:
    @pytest.mark.medium
    def test_by_hand(self, tmp_path: Path) -> None:
        with running(served(tmp_path, experiment="trained:popular", deadline=5000)) as service:
            assert service.engine.experiment.look()["difference"] == {"mean": None, "low": None, "high": None}
            policies = answered(service, {"trained": 1.0, "popular": 0.0})
            service.ask(user="p0", history=HISTORY)  # brings nothing
            users, popular, rewards, _ = earned(service.store, "trained:popular", "popular", 0.5)
            assert len(np.unique(users)) == len(PEOPLE)
            assert int(popular.sum()) == list(policies.values()).count("popular") + (policies["p0"] == "popular")
            assert rewards[popular].sum() == 0
            told = service.engine.experiment.look()
            assert told is not None
            assert [arm["name"] for arm in told["arms"]] == ["trained", "popular"]
            trained = list(policies.values()).count("trained")
            answers = trained + (policies["p0"] == "trained")
            assert told["arms"][0] == {
                "name": "trained", "users": trained, "answers": answers, "reward": trained / answers,
            }  # fmt: skip
            assert told["difference"]["mean"] == pytest.approx(-trained / answers)
            if min(arm["users"] for arm in told["arms"]) >= 50:
                assert told["difference"]["high"] < 0
                assert told["verdict"] == "trained"

    def test_of_another_experiment_nothing_counts(self, tmp_path: Path) -> None:
        with running(served(tmp_path, experiment="trained:popular", deadline=5000)) as service:
            answered(service, {"trained": 1.0, "popular": 1.0}, PEOPLE[:9])
            assert len(earned(service.store, "trained:random", "random", 0.5)[0]) == 0
            assert len(earned(service.store, "trained_popular", "popular", 0.5)[0]) == 0

    def test_after_a_change_of_the_share_all_counts_anew(self, tmp_path: Path) -> None:
        for share, people in ((0.1, PEOPLE[:9]), (0.9, PEOPLE[9:15])):
            with running(served(tmp_path, experiment="trained:popular", experiment_share=share, deadline=5000)) as one:
                answered(one, {"trained": 1.0, "popular": 1.0}, people)
                told = one.engine.experiment.look()
                assert told is not None
                assert sum(arm["answers"] for arm in told["arms"]) == len(people)
                assert told["since"] <= told["time"]

    @pytest.mark.medium
    def test_a_canary_is_an_experiment_of_two_versions(self, tmp_path: Path) -> None:
        second = another(tmp_path / "second")
        folder = tmp_path / "first"
        folder.mkdir()
        with running(served(folder, deadline=5000)) as service:
            assert service.engine.experiment.look() is None
            version = keep(service.engine.models.folder, second.model_agent_path)
            service.store.put_second(Second(version, share=0.5))
            in_time(lambda: service.engine.models.live.second)
            answers = [service.ask(user=user, history=HISTORY) for user in PEOPLE[:20]]
            told = service.engine.experiment.look()
            assert told is not None
            current = service.engine.model()["version"]
            assert told["name"] == f"{current}:{version}"
            by_version = [sum(one.version == name for one in answers) for name in (current, version)]
            assert [arm["answers"] for arm in told["arms"]] == by_version


def answer(
    name: str, user: str | None, arm: str | None, experiment: str = "trained:popular", share: float | None = 0.5
) -> AddImpression:
    explore: dict[str, str | float | None] = {"experiment": experiment, "arm": arm, "share": share} if arm else {}
    return AddImpression(name, user, 1, "v", "trained", ("a", "b"), (0.5, 0.5), explore=explore)


def test_what_the_store_holds_of_an_experiment(store: Store) -> None:
    writes = [
        answer("r1", "anna", "trained"), answer("r2", "ben", "popular"), answer("r3", "anna", "trained"),
        answer("r4", None, "popular"), answer("r5", "carl", None), answer("r6", "dora", "popular", "trained_popular"),
    ]  # fmt: skip
    store.commit(writes)
    rewards = [("r1", "a", 1.0), ("r1", "b", 0.5), ("r2", "b", 2.0), ("r5", "a", 9.0)]
    store.commit([AddFeedback(f"f{row}{item}", row, item, value) for row, item, value in rewards])
    users, popular, found, since = earned(store, "trained:popular", "popular", 0.5)
    assert (users.tolist(), popular.tolist(), found.tolist()) == ([0, 1, 0], [False, True, False], [1.5, 2.0, 0.0])
    assert since == 1
    assert earned(store, "trained_popular", "popular", 0.5)[0].tolist() == [0]


@pytest.mark.parametrize("first", [0.5, 0.1])
def test_the_texts_of_some_answers_alone_are_held_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    shares = [0.5] * 3 + [first] + [0.5] * 20
    arms = ["popular" if one % 2 else "trained" for one in range(24)]
    store.commit([answer(f"r{one:02d}", f"p{one % 8}", arms[one], share=share) for one, share in enumerate(shares)])
    store.commit([AddFeedback(f"f{one}", f"r{one:02d}", "a", float(one)) for one in range(24)])
    monkeypatch.setattr(rewards, "PAGE", 2)
    whole, sizes = rewards.rewards_of, list[int]()

    def watched(store: Store, rows: pl.DataFrame, *more: Any) -> Any:
        sizes.append(len(rows))
        return whole(store, rows, *more)

    monkeypatch.setattr(rewards, "rewards_of", watched)
    monkeypatch.setattr(rewards, "AT_ONCE", 5, raising=False)
    users, popular, found, since = earned(store, "trained:popular", "popular", 0.5)
    begin = 0 if first == 0.5 else 4
    assert max(sizes) < 8
    assert found.tolist() == list(range(begin, 24))
    assert popular.tolist() == [one == "popular" for one in arms[begin:]]
    assert users.tolist() == [one % 8 for one in range(24 - begin)]
    assert since == 1


def test_answers_count_from_the_last_one_of_another_share_on(store: Store) -> None:
    shares = (None, 0.1, 0.5, 0.1, 0.5, 0.5)  # of an old store it is not known
    store.commit([answer(f"r{one}", f"p{one}", "popular", share=share) for one, share in enumerate(shares)])
    assert [len(earned(store, "trained:popular", "popular", share)[0]) for share in (0.5, 0.1)] == [2, 0]
    assert earned(store, "trained:popular", "popular", 0.1)[3] is None


class TestEndpoint:
    def test_it_is_told_and_measured(self, tmp_path: Path) -> None:
        with endpoint(tmp_path, experiment="trained:popular") as service:
            in_time(lambda: service.get("/v1/experiment")["experiment"])
            told = service.get("/v1/experiment")["experiment"]
            assert (told["name"], told["share"], told["level"]) == ("trained:popular", 0.5, 95.0)
            assert json.dumps(told)
            text = service.ask("GET", "/metrics").text
            assert "what_next_experiment_difference_low NaN" in text

    def test_without_one_there_is_none(self, tmp_path: Path) -> None:
        with endpoint(tmp_path) as service:
            assert service.get("/v1/experiment") == {"experiment": None}


class TestMistakes:
    @pytest.mark.parametrize(
        ("experiment", "words"),
        [
            ("popular", "two different ones of trained, popular"),
            ("popular:popular", "two different ones"),
            ("a:b:c", "two different ones"),
            ("trained:../x", "two different ones"),
            ("run-1-a:run-2-b", "one version, or candidate, beside"),
            ("trained:candidate", "without server.candidate"),
        ],
    )
    def test_of_the_setting(self, tmp_path: Path, experiment: str, words: str) -> None:
        with pytest.raises(SetupError, match=words):
            served(tmp_path, experiment=experiment)

    def test_beside_a_canary(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="both share the users"):
            served(tmp_path, experiment="trained:popular", candidate="a.safetensors", canary=0.1)

    def test_a_version_that_is_not_there(self, tmp_path: Path) -> None:
        setup = served(tmp_path, experiment="trained:run-1-abc")
        with running(served(tmp_path)) as service, pytest.raises(ModelError, match="run-1-abc: no such version in"):
            check_models(setup, service.store)
        with pytest.raises(ModelError, match="run-1-abc: no such version in"):
            Service(setup)  # whose store is filled
