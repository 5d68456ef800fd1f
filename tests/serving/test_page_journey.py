"""The page in a real browser: a person picks, plays, skips and blocks, and the lists answer at once."""

import json
from typing import Any

from .browser import (  # noqa: F401
    Opens,
    Parts,
    Seen,
    browser_fixture,
    opens_fixture,
    parts_fixture,
    service_fixture,
    tab_fixture,
)
from .waiting import impressions_of


def spread_points(seen: Seen) -> int:
    return int(seen.page.locator("svg.spread circle").count())


def posted(seen: Seen, path: str) -> list[dict[str, Any]]:
    """What the tab will post to a path from now on."""
    bodies: list[dict[str, Any]] = []
    seen.page.on(
        "request",
        lambda request: (
            bodies.append(request.post_data_json) if request.url.endswith(path) and request.post_data else 0
        ),
    )
    return bodies


def tab_to(seen: Seen, name: str, most: int = 60) -> None:
    """Presses Tab until the control with this name has the focus."""
    for _ in range(most):
        seen.page.keyboard.press("Tab")
        told = seen.page.evaluate(
            "() => { const a = document.activeElement; return a.getAttribute('aria-label') ?? a.labels?.[0]?.innerText"
            " ?? a.innerText }"
        )
        if told == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def test_a_whole_journey_needs_the_keyboard_alone(tab: Seen) -> None:
    keys = tab.page.keyboard
    tab_to(tab, "Pick a person")
    keys.type("u7")
    tab.page.locator("#people-0").wait_for()
    keys.press("ArrowDown")
    assert tab.page.locator("#people").get_attribute("aria-activedescendant") == "people-0"
    keys.press("Enter")
    tab.page.locator("h2", has_text="Next for user u7").wait_for()
    tab.page.locator("#history small", has_text="12 events").wait_for()
    tab.settled()
    points, first = spread_points(tab), tab.titles("trained")[0]
    tab_to(tab, f"Play: {first}")
    after = tab.changed(lambda: keys.press("Enter"))
    assert first not in after
    tab.page.locator("#history small", has_text="13 events").wait_for()
    assert tab.page.locator(".events li cite").first.inner_text() == first
    assert spread_points(tab) == points + 1
    assert tab.page.locator("#said").inner_text().startswith(f"Played: {first}. First now, Trained: {after[0]};")
    # The focus stays where it was: the next item can be played at once.
    assert tab.page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Play: {after[0]}"


def test_three_policies_stand_side_by_side_each_with_its_list(tab: Seen) -> None:
    tab.add("Song 3")
    boxes = [tab.page.locator(f".list.{policy}").bounding_box() for policy in ("trained", "popular", "random")]
    assert len({box["y"] for box in boxes}) == 1
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert boxes[1]["x"] + boxes[1]["width"] <= boxes[2]["x"]
    lists = [tab.titles(policy) for policy in ("trained", "popular", "random")]
    assert [len(titles) for titles in lists] == [5, 5, 5]
    assert len({tuple(titles) for titles in lists}) == 3
    tab.page.get_by_role("checkbox", name="Random").uncheck()
    assert tab.page.locator(".list").count() == 2


def test_somebody_new_is_told_that_the_list_is_a_fallback(tab: Seen) -> None:
    said = tab.page.locator(".list.trained .fallback")
    assert said.inner_text() == "Fallback: nothing is known of this person yet, so these are popular items."
    assert tab.titles("trained") == tab.titles("popular")
    tab.add("Song 5")
    assert said.count() == 0


def test_each_item_says_why_and_with_which_propensity(tab: Seen) -> None:
    tab.add("Song 4")
    item = tab.page.locator(".list.trained .item").first
    assert item.locator(".reason").first.inner_text().startswith("Nearest to Song 4 in the history, cosine ")
    assert item.locator(".chips li").count() >= 1
    assert "propensity 1.00" in item.locator(".fine").inner_text()
    assert "propensity 0.01" in tab.page.locator(".list.random .item .fine").first.inner_text()
    version = tab.page.request.get(f"{tab.base}/v1/model").json()["version"]
    assert tab.page.locator(".title .fine").inner_text() == f"Model {version}, which knows 1 event."


def test_the_spread_is_told_from_the_third_event_and_grows_by_a_point_with_each(tab: Seen) -> None:
    for number, points in ((10, 0), (11, 0), (12, 1), (13, 2)):
        tab.add(f"Song {number}")
        assert spread_points(tab) == points
    told = tab.page.locator("svg.spread").get_attribute("aria-label")
    assert told.startswith("Spread after each of the last 2 events: ")
    assert tab.page.locator("figcaption b").inner_text() == told.split(", ")[-1]


def test_a_long_history_tells_how_much_there_was_before_what_it_shows(tab: Seen) -> None:
    events = [
        {"event_id": f"many{n}", "user_id": "many", "item_id": f"i{n}", "event": "play", "timestamp": 10**15 + n}
        for n in range(25)
    ]
    headers = {"Content-Type": "application/json"}
    told = tab.page.request.post(
        f"{tab.base}/v1/events/batch", data=json.dumps({"events": events}), headers=headers
    ).json()
    assert told["accepted"] == 25
    tab.search("people", "many", "many")
    before = tab.page.locator("details")
    assert before.locator("summary").inner_text() == "19 events before"
    before.locator("summary").press("Enter")
    assert before.locator("li").count() == 14
    assert before.locator("p").inner_text() == "5 older ones not shown."


def test_a_skip_is_an_event_that_names_its_recommendation_which_makes_it_feedback(tab: Seen, parts: Parts) -> None:
    tab.add("Song 20")
    events, feedback = posted(tab, "/v1/events"), posted(tab, "/v1/feedback")
    title = tab.titles("trained")[1]
    tab.changed(lambda: tab.page.get_by_label(f"Skip: {title}", exact=True).first.click())
    assert [(one["event"], one["user_id"][:5]) for one in events] == [("skip", "page-")]
    answers = {one.recommendation_id: one for one in impressions_of(parts.store, events[0]["user_id"])}
    assert answers[events[0]["recommendation_id"]].items[1] == events[0]["item_id"]
    assert feedback == []
    assert tab.page.locator(".events li").first.inner_text().split() == [*title.split(), "skipped"]


def test_not_for_me_keeps_an_item_out_of_every_list_until_it_is_allowed_again(tab: Seen) -> None:
    events, feedback = posted(tab, "/v1/events"), posted(tab, "/v1/feedback")
    title = tab.titles("popular")[0]
    tab.changed(lambda: tab.page.locator(".list.popular").get_by_label(f"Not for me: {title}", exact=True).click())
    assert [one["reward"] for one in feedback] == [-1]
    assert events == []
    assert all(title not in tab.titles(policy) for policy in ("trained", "popular", "random"))
    tab.changed(lambda: tab.page.get_by_label(f"Allow again: {title}").click(), "popular")
    assert tab.titles("popular")[0] == title
    tab.page.wait_for_function("() => document.activeElement.id === 'lists-title'")  # the button is gone, focus is not


def test_forget_me_erases_the_session(tab: Seen) -> None:
    tab.add("Song 30")
    tab.page.get_by_role("button", name="Forget me").click()
    tab.page.locator("#history small", has_text="0 events").wait_for()
    deleted = [url.rsplit("/", 1)[1] for method, url in tab.asked if method == "DELETE"]
    assert [user[:5] for user in deleted] == ["page-"]
    again = tab.page.request.get(f"{tab.base}/v1/users/{deleted[0]}/history")
    assert again.json()["total"] == 0
    assert tab.page.get_by_role("button", name="Forget me").count() == 0


def test_a_title_with_markup_is_text(tab: Seen) -> None:
    title = '<img src=x onerror="document.title=1"> film'
    item = {"item_id": "markup", "title": title, "attributes": dict.fromkeys(("danceability", "energy"), 0.0)}
    item["attributes"] |= {"tempo": 0.0, "valence": 0.0}
    answer = tab.page.request.post(
        f"{tab.base}/v1/items", data=json.dumps(item), headers={"Content-Type": "application/json"}
    )
    assert answer.status == 201
    tab.add(title)
    assert tab.page.locator(".events cite").first.inner_text() == title
    assert tab.page.locator("main img").count() == 0
    assert tab.page.title() == "What Next?"


def test_a_search_that_finds_nothing_says_so_and_escape_closes_one(tab: Seen) -> None:
    box = tab.page.locator("#titles")
    box.fill("qqqq")
    tab.page.locator(".combobox .none", has_text="No title with “qqqq”.").wait_for()
    box.fill("Song")
    tab.page.locator("#titles-0").wait_for()
    assert box.get_attribute("aria-expanded") == "true"
    box.press("ArrowUp")
    assert tab.page.locator("#titles-options [aria-selected=true]").inner_text() == (
        tab.page.locator("#titles-options li").last.inner_text()
    )
    box.press("Escape")
    assert box.get_attribute("aria-expanded") == "false"
    assert box.input_value() == "Song"
    box.press("Escape")
    assert box.input_value() == ""


def test_begin_my_own_history_leaves_the_person(opens: Opens) -> None:
    seen = opens()
    seen.search("people", "u12", "u12")
    seen.page.locator("h2", has_text="Next for user u12").wait_for()
    seen.page.get_by_role("button", name="Begin my own history").click()
    seen.page.locator("h2", has_text="Next for you").wait_for()
    seen.page.locator("#history small", has_text="0 events").wait_for()
    seen.settled()
    seen.page.wait_for_function("() => document.activeElement.id === 'who'")  # the button is gone, the focus is not


def test_popular_items_are_asked_for_without_a_draw(tab: Seen) -> None:
    asked = posted(tab, "/v1/recommendations")
    tab.page.reload()
    tab.page.locator("section.list.popular li.item").first.wait_for()
    explored = {body["policy"]: body.get("explore") for body in asked}
    assert explored == {"trained": None, "popular": {"temperature": 0}, "random": None}


def test_an_experiment_is_told_with_its_bounds(tab: Seen) -> None:
    arms = [
        {"name": "trained", "users": 1200, "answers": 5000, "reward": 0.125},
        {"name": "<b>popular", "users": 1180, "answers": 4900, "reward": 0.1},
    ]
    found = {
        "name": "trained:popular", "share": 0.5, "arms": arms, "level": 95.0, "verdict": "trained",
        "difference": {"mean": -0.025, "low": -0.04, "high": -0.01}, "assumes": "", "time": "2026-01-01T00:00:00Z",
        "since": "2025-12-24T18:30:00Z",
    }  # fmt: skip
    assert not tab.page.locator("#experiment").is_visible()  # where there is none
    tab.page.route("**/v1/experiment", lambda route: route.fulfill(json={"experiment": found}))
    tab.page.reload()
    section = tab.page.locator("section", has=tab.page.locator("#experiment"))
    section.wait_for()
    told = " ".join(section.inner_text().split())
    assert "Counted since 2025-12-24 18:30 UTC" in told
    for words in ("trained earned 0.125 an answer", "5,000 answers to 1,200 users", "<b>popular", "trained is better."):
        assert words in told
    assert "Difference \u22120.0250, 95 % between \u22120.0400 and \u22120.0100 at any number of looks." in told
    tab.settled()
    found["difference"] = {"mean": 0.1, "low": None, "high": None}
    found["verdict"] = None
    tab.page.reload()
    section.wait_for()
    assert "Too few users to say more. Nothing is decided." in section.inner_text()
    tab.settled()
