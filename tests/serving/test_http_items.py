"""Items that come in bulk, and go: in every process on a store, and in the log."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from what_next.serving.store import AddItems, NewItem, Withdrawn

from .endpoint import Service, process, service
from .engines import asking, in_time, running
from .engines import ids as ids_of
from .models import ATTRIBUTES, served
from .waiting import impressions_of, rows


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path, rate=0) as started:
        yield started


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"item_id": name, "title": f"Song {name}", "attributes": dict.fromkeys(ATTRIBUTES, 0.5), **more}


def shown(one: Service, **question: Any) -> list[str]:
    return [told["item_id"] for told in one.recommend(**{"k": 200, "exclude_seen": False, **question})["items"]]


class TestBulk:
    def test_items_come_together_and_can_be_recommended_at_once(self, one: Service) -> None:
        batch = {"items": [item(f"x{number}") for number in range(1000)]}
        assert one.post("/v1/items/batch", batch) == {"accepted": 1000, "replaced": 0}
        assert one.get("/v1/model")["items"] == 1080
        assert "x999" in shown(one, user_id="u1", allowed=["x999", "i1"])
        again = {"items": [item("x0", title="New"), item("i1"), item("y"), item("x0", title="Newest")]}
        assert one.post("/v1/items/batch", again) == {"accepted": 3, "replaced": 2}
        assert one.get("/v1/items/x0")["title"] == "Newest"

    def test_times_in_nanoseconds_and_hundreds_of_words_are_attributes(self, one: Service) -> None:
        from what_next.serving.bodies import Item

        one.post("/v1/items", item("late", attributes={**dict.fromkeys(ATTRIBUTES, 0.5), "tempo": 1.7e18}))
        assert shown(one, history=["i1"], ranges={"tempo": {"min": 1.6e18, "max": 1.8e18}}) == ["late"]
        assert len(Item.model_validate(item("x", attributes={f"genre:{n}": 1.0 for n in range(200)})).attributes) == 200
        one.ask("DELETE", "/v1/items/late")

    def test_all_of_a_batch_or_nothing_is_taken(self, one: Service) -> None:
        for bad, field in (
            (item("x", attributes={"energy": 1.0}), "items.1.attributes"),
            (item("x", attributes={}), "items.1.attributes"),
            (item(" "), "items.1.item_id"),
            ({"item_id": "x"}, "items.1.title"),
        ):
            refused = one.ask("POST", "/v1/items/batch", {"items": [item("fine"), bad]})
            told = (refused.status_code, refused.json()["error"]["fields"][0]["field"])
            assert told == (422, field)
        assert one.ask("POST", "/v1/items/batch", {"items": []}).status_code == 422
        too_many = {"items": [item(f"x{number}") for number in range(1001)]}
        assert one.ask("POST", "/v1/items/batch", too_many).status_code == 422
        assert one.ask("GET", "/v1/items/fine").status_code == 404


class TestWithdrawing:
    def test_an_item_goes_from_every_kind_of_answer_and_comes_back(self, one: Service) -> None:
        first = shown(one, user_id="u1", k=1)[0]
        one.play("e1", "new", first)
        assert one.ask("DELETE", f"/v1/items/{first}").json() == {"withdrawn": 1}
        assert one.ask("DELETE", f"/v1/items/{first}").json() == {"withdrawn": 0}
        asked: list[dict[str, Any]] = [
            {"user_id": "u1"}, {"user_id": "nobody"}, {"history": [first]}, {"policy": "popular"}, {"policy": "random"},
            {"user_id": "u1", "explore": {"temperature": 5.0}}, {"user_id": "u1", "explore": {"epsilon": 1.0}},
            {"user_id": "u1", "blocked": ["i2"]}, {"user_id": "u1", "ranges": {"energy": {"min": -1e9}}},
            {"policy": "popular", "explore": {"temperature": 5.0}},
        ]  # fmt: skip
        for question in asked:
            found = shown(one, **question)
            assert first not in found
            assert len(found) == 79 - len(question.get("blocked", ()))
        assert shown(one, user_id="u1", allowed=[first]) == []
        similar = [told["item_id"] for told in one.get("/v1/items/i7/similar?k=200")["items"]]
        assert (first in similar, len(similar)) == (False, 78)
        assert one.get("/v1/model")["withdrawn"] == 1
        # It stays in histories, and what it is is told.
        assert one.get("/v1/users/new/history")["events"][0]["item_id"] == first
        assert one.get(f"/v1/items/{first}")["title"]
        assert one.recommend(user_id="new")["known_events"] == 1
        one.post("/v1/items", item(first))
        assert first in shown(one, user_id="u1")
        assert one.get("/v1/model")["withdrawn"] == 0

    def test_what_is_no_item_is_not_found(self, one: Service) -> None:
        assert one.ask("DELETE", "/v1/items/nothing").status_code == 404

    def test_the_next_answer_of_every_process_knows(self, one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        from what_next.serving.engine import models

        monkeypatch.setattr(models.Poller, "_run", lambda poller: poller.models.count())  # which looks every second
        with process(one.setup) as other:
            for number in range(20):
                best = shown(other, user_id="u1", k=1)[0]
                one.ask("DELETE", f"/v1/items/{best}")
                assert best not in shown(other, user_id="u1"), number
            one.post("/v1/items", item("x1"))  # of which the other has not heard
            assert other.ask("DELETE", "/v1/items/x1").json() == {"withdrawn": 1}
            assert other.ask("DELETE", "/v1/items/x2").status_code == 404
            assert len(shown(one, user_id="u1")) == len(shown(other, user_id="u1")) == 60
        with process(one.setup) as later:
            assert len(shown(later, user_id="u1")) == 60

    @pytest.mark.medium
    def test_no_answer_that_comes_after_it_holds_the_item_whoever_gives_it(self, one: Service) -> None:
        """Two processes answer all the time, popular items as well, while items go."""
        gone: set[str] = set()
        stop, wrong = threading.Event(), list[str]()

        def ask(process: Service, policy: str) -> int:
            count = 0
            while not stop.is_set():
                before = set(gone)
                answer = process.ask("POST", "/v1/recommendations", {"user_id": "u1", "k": 50, "policy": policy})
                assert answer.status_code in (200, 503), answer.text
                wrong.extend(before & {told["item_id"] for told in answer.json().get("items", ())})
                count += answer.status_code == 200
            return count

        with process(one.setup) as other, ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, each, policy) for each in (one, other) for policy in ("trained", "popular")]
            for number in range(30):
                assert (one, other)[number % 2].ask("DELETE", f"/v1/items/i{number}").json() == {"withdrawn": 1}
                gone.add(f"i{number}")
                stop.wait(0.03)  # an answer that loses to two withdrawals is none
            stop.set()
            counts = [each.result(60) for each in asking]
        assert wrong == []
        assert min(counts) > 5

    @pytest.mark.parametrize("algorithm", ["whatnext", "dqn"])
    def test_so_it_is_with_every_algorithm(self, tmp_path: Path, algorithm: str) -> None:
        with running(served(tmp_path, algorithm, deadline=60_000)) as service:
            service.played("p", "i1", "i2")
            first, second = ids_of(service.ask(user="p", k=2))
            assert service.engine.withdraw(first)
            draws: list[dict[str, Any]] = [{}, {"temperature": 9.0}, {"epsilon": 1.0}]
            found = [ids_of(service.ask(user="p", k=80, **draw)) for draw in draws]
            assert all(first not in one for one in found)
            assert second in found[0]

    def test_approximate_search_and_the_safe_policy_pass_it_over(self, tmp_path: Path) -> None:
        with running(served(tmp_path, search="approximate", candidates=80, deadline=60_000)) as service:
            service.played("p", "i1")
            best = ids_of(service.ask(user="p", k=3))[0]
            service.engine.withdraw(best)
            assert best not in ids_of(service.ask(user="p", k=3))
            active = service.engine.models.live.current
            safe = service.engine._safe.safe(active, asking(user="p", k=80), "current", "deadline")
            assert best not in safe.answer.ids  # type: ignore[union-attr]
            assert len(safe.answer.ids) == 78  # type: ignore[union-attr]

    def test_a_new_version_and_new_items_leave_it_withdrawn(self, one: Service) -> None:
        one.ask("DELETE", "/v1/items/i3")
        one.post("/v1/items", item("x1"))
        assert ("i3" in shown(one, user_id="u1"), "x1" in shown(one, user_id="u1")) == (False, True)
        one.ask("DELETE", "/v1/items/x1")
        one.store.commit([AddItems((NewItem("x2", "X", dict.fromkeys(ATTRIBUTES, 0.1)),))])
        one.engine.models.grow()
        assert {"i3", "x1"} & set(shown(one, user_id="u1")) == set()


def test_what_is_withdrawn_during_a_look_is_looked_at_by_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(served(tmp_path)) as service:
        engine, looks = service.engine, list[int]()

        def look() -> None:
            looks.append(1)
            engine._behind = len(looks) == 1  # as the writer's thread finds out while the store is read

        monkeypatch.setattr(engine.models.withdrawals, "look", look)
        engine._poller.close()
        looks.clear()
        engine._behind = True
        for count in (1, 2, 2):
            service.ask(user="p")
            assert len(looks) == count


def test_answers_of_a_request_that_is_given_up_while_another_is_made_anew_were_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(served(tmp_path)) as service:
        engine, outcomes = service.engine, service.engine._outcomes

        async def one_is_withdrawn(requests: Any, caller: str) -> Any:
            if len(requests) == 1:
                await asyncio.sleep(60)
            return [(await outcomes(requests, caller))[0], Withdrawn()]

        monkeypatch.setattr(engine, "_outcomes", one_is_withdrawn)

        async def give_up() -> None:
            asked = asyncio.create_task(engine.recommend_all([(asking(user="p"), None)] * 2))
            await asyncio.to_thread(in_time, lambda: len(impressions_of(service.store, "p")) == 2)
            await asyncio.sleep(0.05)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

        asyncio.run(give_up())
        in_time(lambda: sorted(one.shown for one in impressions_of(service.store, "p")) == [False, True])


def test_what_an_answer_knew_of_withdrawn_items_is_noted_with_it(tmp_path: Path) -> None:
    with running(served(tmp_path)) as service:
        service.played("p", "i1")
        service.ask(user="p")
        service.engine.withdraw("i2")
        service.engine.withdraw("i3")
        asyncio.run(service.answer(asking(user="p")))
        numbers = rows(service.store, "SELECT withdrawn FROM impressions ORDER BY number")
        assert numbers == [(0,), (2,)]
