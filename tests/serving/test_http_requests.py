"""What the endpoint takes and answers, on the real engine and store."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from .endpoint import Service, service


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("requests")) as started:
        yield started


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_known_user_is_answered_by_the_model_with_all_that_the_schema_promises(one: Service) -> None:
    from what_next.serving.http.replies import Recommendations

    answer = one.recommend(user_id="u1", k=3, explain=True)
    told = Recommendations.model_validate(answer)
    assert (len(told.items), told.policy, told.fallback, told.user_id) == (3, "trained", None, "u1")
    assert told.known_events == 12
    assert [item.propensity for item in told.items] == [1, 1, 1]
    assert all(item.reason is not None and item.reason.nearest is not None for item in told.items)
    assert told.model.version == one.get("/v1/model")["version"]


def test_nobody_known_is_answered_with_popular_items_and_told_so(one: Service) -> None:
    answer = one.recommend(user_id="a stranger", k=2)
    assert (answer["fallback"], answer["policy"], len(answer["items"])) == ("unknown_user", "popular", 2)


def test_a_history_goes_before_what_is_stored_and_names_what_it_does_not_know(one: Service) -> None:
    answer = one.recommend(user_id="u1", history=["i3", "no such", "i4"], k=80)
    assert answer["unknown"] == ["no such"]
    assert not {"i3", "i4"} & set(ids(answer))
    assert len(answer["items"]) == 78


def test_allowed_and_blocked_items_and_ranges_bound_the_answer(one: Service) -> None:
    allowed = ["i1", "i2", "i3", "i4"]
    question = {"history": ["i9"], "allowed": allowed, "blocked": ["i2"], "k": 10}
    assert set(ids(one.recommend(**question))) == {"i1", "i3", "i4"}
    tempo = {name: one.get(f"/v1/items/{name}")["attributes"]["tempo"] for name in allowed}
    bound = sorted(tempo.values())[1]
    expected = {name for name in ("i1", "i3", "i4") if tempo[name] <= bound}
    assert set(ids(one.recommend(**question, ranges={"tempo": {"max": bound}}))) == expected


def test_the_same_seed_draws_the_same_items_with_chances_below_one(one: Service) -> None:
    question = {"user_id": "u2", "k": 5, "explore": {"temperature": 1.0}, "seed": 7}
    first, second = one.recommend(**question), one.recommend(**question)
    assert ids(first) == ids(second)
    assert all(0 < item["propensity"] < 1 for item in first["items"])
    assert first["recommendation_id"] != second["recommendation_id"]


def test_temperature_0_takes_the_best_whatever_the_setup_says(tmp_path: Path) -> None:
    with service(tmp_path, temperature=1.0) as one:
        for policy in ("trained", "popular"):
            question = {"user_id": "u2", "k": 5, "policy": policy, "explore": {"temperature": 0}}
            first, second = one.recommend(**question), one.recommend(**question)
            assert ids(first) == ids(second)
            assert [item["propensity"] for item in first["items"]] == [1.0] * 5


def test_a_batch_answers_each_question_for_itself(one: Service) -> None:
    good, bad = {"user_id": "u1", "k": 1}, {"user_id": "u1", "ranges": {"no such": {"min": 0}}}
    first, second = one.post("/v1/recommendations/batch", {"requests": [good, bad]})["answers"]
    assert len(first["items"]) == 1
    assert second["error"]["fields"][0]["field"] == "ranges"
    malformed = one.ask("POST", "/v1/recommendations/batch", {"requests": [good, {"k": "1"}]})
    assert (malformed.status_code, malformed.json()["error"]["fields"][0]["field"]) == (422, "requests.1.k")


def test_an_event_is_kept_once_however_often_it_is_sent(one: Service) -> None:
    rest = {"unknown_items": [], "unmatched": [], "erased": []}
    assert one.play("e-once", "once") == {"accepted": 1, "duplicates": 0, **rest}
    assert one.play("e-once", "once") == {"accepted": 0, "duplicates": 1, **rest}
    batch = [
        {"event_id": name, "user_id": "once", "item_id": "i1" if name == "e-once" else "zz"}
        for name in ("e-once", "e-2", "e-2")
    ]
    told = one.post("/v1/events/batch", {"events": batch})
    assert (told["accepted"], told["duplicates"], set(told["unknown_items"])) == (1, 2, {"zz"})
    assert one.get("/v1/users/once/history")["total"] == 2


def test_another_event_under_an_id_that_is_there_is_a_conflict_and_nothing_of_its_batch_is_kept(one: Service) -> None:
    def refused(path: str, body: Any) -> tuple[int, str, str]:
        error = one.ask("POST", path, body)
        told = error.json()["error"]
        return error.status_code, told["code"], told["fields"][0]["field"]

    one.play("e-first", "first", "i3")
    other = {"event_id": "e-first", "user_id": "second", "item_id": "i3"}
    assert refused("/v1/events", other) == (409, "conflict", "event_id")
    batch = {"events": [{"event_id": "e-fine", "user_id": "second", "item_id": "i3"}, other]}
    assert refused("/v1/events/batch", batch) == (409, "conflict", "events.1.event_id")
    assert [one.get(f"/v1/users/{user}/history")["total"] for user in ("first", "second")] == [1, 0]


def test_other_feedback_under_an_id_that_is_there_is_a_conflict(one: Service) -> None:
    answer = one.recommend(user_id="u5", k=2)
    first, second = ids(answer)
    fits = {"recommendation_id": answer["recommendation_id"], "reward": 1.0}
    assert one.post("/v1/feedback", {"feedback_id": "f-first", "item_id": first, **fits})["accepted"] == 1
    other = {"feedback_id": "f-first", "item_id": second, **fits}
    refused = one.ask("POST", "/v1/feedback", other)
    assert (refused.status_code, refused.json()["error"]["fields"][0]["field"]) == (409, "feedback_id")
    batch = [{"feedback_id": "f-new", "item_id": second, **fits}, other]
    told = one.post("/v1/feedback/batch", {"feedback": batch})
    assert (told["accepted"], [(bad["index"], bad["code"]) for bad in told["refused"]]) == (1, [(1, "conflict")])


def test_who_was_erased_does_not_come_back_by_what_is_sent_late(one: Service) -> None:
    one.play("e-late", "late")
    assert one.ask("DELETE", "/v1/users/late").json()["events"] == 1
    assert one.play("e-late", "late")["erased"] == ["e-late"]
    assert one.play("e-older", "late", timestamp="2020-01-01T00:00:00Z")["erased"] == ["e-older"]
    assert one.get("/v1/users/late/history")["total"] == 0
    assert one.get("/v1/users?query=late")["users"] == []
    assert one.play("e-new", "late")["accepted"] == 1
    assert one.get("/v1/users/late/history")["total"] == 1


def test_an_event_that_names_an_answer_which_does_not_fit_is_kept_named_and_counted(one: Service) -> None:
    def counted() -> float:
        (line,) = re.findall(r'what_next_events_total{result="unmatched"} (.+)', one.ask("GET", "/metrics").text)
        return float(line)

    answer = one.recommend(user_id="u4", k=1)
    fits = {"user_id": "u4", "item_id": ids(answer)[0], "recommendation_id": answer["recommendation_id"]}
    events = [{"event_id": "m-1"} | fits, {"event_id": "m-2"} | fits | {"user_id": "u5"}]
    told = one.post("/v1/events/batch", {"events": events})
    assert (told["accepted"], told["unmatched"]) == (2, ["m-2"])
    before = counted()
    assert one.play("m-3", "u4", recommendation_id="no such")["unmatched"] == ["m-3"]
    assert counted() == before + 1


def test_an_event_of_a_kind_of_ones_own_that_names_an_answer_needs_a_reward_to_be_feedback(one: Service) -> None:
    answer = one.recommend(user_id="u4", k=1)
    fits = {"item_id": ids(answer)[0], "recommendation_id": answer["recommendation_id"]}
    assert one.play("w-1", "u4", event="apply", **fits)["unmatched"] == ["w-1"]
    assert one.play("w-2", "u4", event="apply", reward=5.0, **fits)["unmatched"] == []
    assert one.play("w-3", "u4", event="skip", **fits)["unmatched"] == []
    assert one.play("w-4", "u4", event="apply", item_id=ids(answer)[0])["unmatched"] == []  # names no answer


def test_an_event_changes_the_next_answer(one: Service) -> None:
    before = one.recommend(user_id="u3", k=1)
    one.play("e-change", "u3", ids(before)[0])
    after = one.recommend(user_id="u3", k=80)
    assert after["known_events"] == before["known_events"] + 1
    assert ids(before)[0] not in ids(after)


@pytest.mark.parametrize("stamp", ["2026-11-25T10:00:00Z", "2026-11-25T11:00:00.000+01:00", 1_795_600_800_000_000])
def test_times_are_iso_with_a_zone_or_microseconds(one: Service, stamp: object) -> None:
    user = f"times {stamp}"
    one.play(f"e {stamp}", user, timestamp=stamp)
    (event,) = one.get("/v1/users/" + user.replace(" ", "%20").replace("+", "%2B") + "/history")["events"]
    assert event["timestamp"] == 1_795_600_800_000_000


def test_a_history_is_told_newest_first_with_its_spread(one: Service) -> None:
    for number in range(4):
        one.play(f"e-h{number}", "h", f"i{number}", timestamp=10**15 + 1_000_000 * number, reward=0.5, event="rating")
    told = one.get("/v1/users/h/history?limit=2")
    assert [event["item_id"] for event in told["events"]] == ["i3", "i2"]
    assert (told["total"], told["events"][0]["title"], told["events"][0]["event"]) == (4, "Song 3", "rating")
    spread = told["spread"]
    assert spread[:2] == [None, None]
    assert len(spread) == 4
    assert spread[3] == pytest.approx(one.recommend(user_id="h")["spread"])
    nobody = {"user_id": "nobody", "events": [], "total": 0, "spread": [], "boredom": None}
    assert one.get("/v1/users/nobody/history") == nobody


def test_a_name_with_a_slash_and_a_percent_sign_is_one_name(one: Service) -> None:
    name = "a/b %2F?ä"
    one.play("e-slash", name)
    path = "/v1/users/a%2Fb%20%252F%3F%C3%A4"
    assert one.get(f"{path}/history")["user_id"] == name
    assert one.ask("DELETE", path).json()["events"] == 1


def test_users_and_items_are_found_by_their_names(one: Service) -> None:
    assert one.get("/v1/users?query=u1&limit=3")["users"] == ["u1", "u10", "u11"]
    found = one.get("/v1/items?query=song%201&limit=2")["items"]
    assert len(found) == 2
    assert all(item["title"].startswith("Song 1") for item in found)
    assert one.get("/v1/items/i5")["title"] == "Song 5"
    near = one.get("/v1/items/i5/similar?k=4")["items"]
    assert len(near) == 4
    assert "i5" not in [item["item_id"] for item in near]
    assert [item["similarity"] for item in near] == sorted((item["similarity"] for item in near), reverse=True)


@pytest.mark.parametrize("path", ["/v1/items/no", "/v1/items/no/similar", "/v2", "/page/../page.html", "/page/no.js"])
def test_what_is_not_there_is_404(one: Service, path: str) -> None:
    answer = one.ask("GET", path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_new_item_can_be_recommended_at_once(one: Service) -> None:
    attributes = one.get("/v1/items/i1")["attributes"]
    new = {"item_id": "new item", "title": "Brand New", "attributes": attributes}
    assert one.post("/v1/items", new) == {"accepted": 1, "replaced": 0}
    assert ids(one.recommend(history=["i1"], allowed=["new item"])) == ["new item"]
    assert one.post("/v1/items", new | {"title": "Newer"}) == {"accepted": 1, "replaced": 1}
    answer = one.ask("POST", "/v1/items", new | {"item_id": "i79", "title": "Of old"})
    assert answer.text == '{"accepted":1,"replaced":1}'
    assert one.get("/v1/items/i79")["title"] == "Of old"
    assert one.get("/v1/items/new%20item")["title"] == "Newer"
    refused = one.ask("POST", "/v1/items", new | {"attributes": {}})
    assert refused.status_code == 422
    assert refused.json()["error"]["fields"][0]["field"] == "attributes"


def test_an_item_may_be_called_as_a_path_is(one: Service) -> None:
    attributes = one.get("/v1/items/i1")["attributes"]
    one.post("/v1/items", {"item_id": "batch", "title": "Cookies", "attributes": attributes})
    assert one.get("/v1/items/batch")["title"] == "Cookies"
    assert one.ask("DELETE", "/v1/items/batch").status_code == 200
    assert one.ask("PUT", "/v1/items/batch").headers["allow"] == "DELETE, GET, HEAD, POST"


def test_erasing_a_user_leaves_nothing_of_them(one: Service) -> None:
    one.play("e-gone", "gone")
    shown = one.recommend(user_id="gone")
    item = ids(shown)[0]
    feedback = {"feedback_id": "f-gone", "recommendation_id": shown["recommendation_id"], "item_id": item, "reward": 1}
    one.post("/v1/feedback", feedback)
    assert one.ask("DELETE", "/v1/users/gone").json() == {"events": 1, "impressions": 1, "feedback": 1}
    assert one.get("/v1/users/gone/history")["total"] == 0
    assert one.recommend(user_id="gone")["fallback"] == "unknown_user"
    again = one.ask("POST", "/v1/feedback", feedback | {"feedback_id": "f-later"})
    assert again.status_code == 404
    assert one.ask("DELETE", "/v1/users/gone").json()["events"] == 0


def test_the_page_is_served_with_a_policy_that_lets_nothing_in_from_elsewhere(one: Service) -> None:
    page = one.ask("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert one.ask("GET", "/page/page.js").headers["content-type"].startswith("text/javascript")
    assert one.ask("GET", "/page/__init__.py").status_code == 404


def test_metrics_count_requests_answers_sessions_and_the_model(one: Service) -> None:
    one.recommend(user_id="u1")
    text = one.ask("GET", "/metrics").text
    for wanted in (
        'what_next_requests_total{method="POST",route="/v1/recommendations",status="200"}',
        'what_next_answers_total{fallback="none",policy="trained",role="current"}',
        'what_next_sessions_total{found="hit"}',
        'what_next_events_total{result="accepted"}',
        "what_next_batch_size_bucket",
        "what_next_writer_depth 0.0",
        "what_next_ready 1.0",
        "what_next_version_refused 0.0",
        "what_next_log_lines_dropped 0.0",
        "what_next_model_info{",
        "what_next_store_failures_total",
    ):
        assert wanted in text


def test_what_was_heard_may_be_shown_again_where_the_setup_or_the_request_says_so(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, heard = {"history": ["i3", "i4"], "k": 80}, {"i3", "i4"}
    assert not heard & set(ids(one.recommend(**asked)))
    monkeypatch.setattr(one.engine._answering, "seen", True)  # as evaluation.seen says
    assert heard <= set(ids(one.recommend(**asked)))
    assert heard <= set(ids(one.post("/v1/recommendations/batch", {"requests": [asked]})["answers"][0]))
    assert not heard & set(ids(one.recommend(**asked, exclude_seen=True)))


def test_items_whose_ids_no_request_may_hold_are_told() -> None:
    from what_next.serving.http.run import unnameable

    assert unnameable(pl.Series(["i1", "a b", "\u00fc", "x" * 256])) is None
    assert unnameable(pl.Series([1, 2])) is None
    told = unnameable(pl.Series(["i1", "a\nb", "x" * 257, " ", "..", "..."]))
    assert told is not None
    assert told.startswith(
        "4 items have ids that no request may hold (above 256 characters, with control characters, or . or ..)"
    )
    assert str(unnameable(pl.Series(["a\0"]), "users")).startswith("1 users have ids that no request may hold")
