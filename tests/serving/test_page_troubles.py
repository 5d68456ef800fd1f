"""The page in a real browser when something goes wrong: told in words beside it, and tried again without harm."""

import json
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from what_next.errors import StoreUnavailable

from .browser import (  # noqa: F401
    Opens,
    Parts,
    Seen,
    browser_fixture,
    locked_fixture,
    opens_fixture,
    parts_fixture,
    service_fixture,
    tab_fixture,
)

AWAY = {"error": {"code": "unavailable", "message": "the store is away", "fields": []}}


def refuse(seen: Seen, path: str, status: int = 503, content: object = AWAY) -> None:
    """From now on the service refuses what is asked at a path."""
    seen.failing = True
    seen.page.route(
        f"**{path}",
        lambda route: route.fulfill(
            status=status, body=json.dumps(content), content_type="application/json", headers={"Retry-After": "1"}
        ),
    )


def allow(seen: Seen, path: str) -> None:
    seen.page.unroute(f"**{path}")


def test_a_play_while_the_store_is_away_is_told_beside_the_item_and_written_once(
    tab: Seen,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(writes: object) -> NoReturn:
        raise StoreUnavailable("the disk is full")

    bodies: list[dict[str, Any]] = []
    tab.page.on("request", lambda request: bodies.append(request.post_data_json) if "/v1/events" in request.url else 0)
    tab.failing = True
    monkeypatch.setattr(parts.store, "commit", away)
    title = tab.titles("random")[2]
    item = tab.page.locator(".list.random .item").nth(2)
    item.get_by_role("button", name="Play").click()
    told = item.get_by_role("alert")
    told.wait_for()
    assert told.locator("p").inner_text().startswith("The service cannot do that just now. ")
    assert tab.page.locator("#history small").inner_text() == "0 events"
    monkeypatch.undo()
    item.get_by_role("button", name="Try again").press("Enter")
    tab.page.locator("#history small", has_text="1 event").wait_for()
    assert tab.page.locator(".events li cite").all_inner_texts() == [title]
    assert len({body["event_id"] for body in bodies}) == 1  # a second try under the same name
    assert len(bodies) == 2


def test_what_was_said_stays_to_be_tried_again_when_the_list_has_changed(tab: Seen) -> None:
    refuse(tab, "/v1/events")
    title = tab.titles("popular")[0]
    tab.page.locator(".list.popular").get_by_label(f"Skip: {title}", exact=True).click()
    tab.page.locator(".list.popular .item").first.get_by_role("alert").wait_for()
    tab.page.get_by_role("combobox", name="Items").select_option("10")
    said = tab.page.locator(".unwritten")
    said.wait_for()
    assert said.locator("p").first.inner_text() == f"Not written yet: Skipped, {title}."
    allow(tab, "/v1/events")
    said.get_by_role("button", name="Try again").click()
    said.wait_for(state="detached")
    tab.page.locator(".events li", has_text=title).wait_for()


def test_a_list_that_fails_leaves_the_others_alone_and_comes_back(opens: Opens) -> None:
    seen = opens()
    seen.settled()
    seen.failing = True
    seen.page.route(
        "**/v1/recommendations",
        lambda route: route.abort() if '"policy":"random"' in route.request.post_data else route.continue_(),
    )
    seen.page.get_by_role("combobox", name="Items").select_option("3")
    alert = seen.page.locator(".list.random > .trouble")
    alert.wait_for()
    assert alert.locator("p").inner_text() == "The service does not answer."
    seen.settled()
    assert [len(seen.titles(policy)) for policy in ("trained", "popular", "random")] == [3, 3, 5]
    allow(seen, "/v1/recommendations")
    alert.get_by_role("button").press("Enter")
    alert.wait_for(state="detached")
    assert len(seen.titles("random")) == 3
    seen.page.wait_for_function("() => document.activeElement.id === 'list-random'")


def test_one_try_brings_back_all_that_failed_while_the_service_started(opens: Opens) -> None:
    seen = opens()
    seen.settled()
    refuse(seen, "/v1/**")
    seen.page.reload()
    seen.page.locator(".list .trouble").nth(2).wait_for()
    assert seen.page.locator("h2", has_text="Next for you").is_visible()
    allow(seen, "/v1/**")
    seen.page.get_by_role("button", name="Try again").last.click()
    seen.page.locator(".list.trained .item").nth(4).wait_for()
    seen.settled()
    assert [len(seen.titles(policy)) for policy in ("trained", "popular", "random")] == [5, 5, 5]
    assert seen.page.locator(".trouble").count() == 0
    assert "sqn on lstm" in seen.page.locator(".eyebrow").inner_text()


def test_an_answer_that_comes_late_never_replaces_a_newer_one(tab: Seen) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        if '"k":3,"policy":"popular"' in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    tab.page.route("**/v1/recommendations", hold)
    tab.page.get_by_role("combobox", name="Items").select_option("3")
    tab.page.wait_for_function("() => document.querySelectorAll('.list.random .item').length === 3")
    tab.page.get_by_role("combobox", name="Items").select_option("10")
    tab.page.wait_for_function("() => document.querySelectorAll('.list.popular .item').length === 10")
    with tab.page.expect_response("**/v1/recommendations"):
        held[0].continue_()
    tab.page.wait_for_timeout(100)
    assert len(tab.titles("popular")) == 10


def test_only_an_administrator_may_forget_and_the_page_says_so(opens: Opens, locked: tuple[str, str]) -> None:
    base, key = locked
    seen = opens(base)
    seen.failing = True
    seen.page.get_by_label("API key").fill(key)
    seen.page.get_by_label("API key").press("Enter")
    seen.page.locator("form.key").wait_for(state="detached")
    seen.add("Song 40")
    seen.page.get_by_role("button", name="Forget me").click()
    seen.page.get_by_text("Only a key of the role admin may erase a person").wait_for()
    assert seen.page.locator("#history small").inner_text() == "1 event"


def test_a_service_with_keys_is_asked_with_the_key_that_was_typed(opens: Opens, locked: tuple[str, str]) -> None:
    base, key = locked
    seen = opens(base)
    seen.failing = True
    form = seen.page.locator("form.key")
    form.wait_for()
    assert form.get_by_role("alert").inner_text().startswith("The service asks for an API key.")
    form.get_by_label("API key").fill("wn_wrong")
    form.get_by_label("API key").press("Enter")
    form.get_by_text("The service does not know this key.").wait_for()
    form.get_by_label("API key").fill(key)
    form.get_by_role("button").click()
    form.wait_for(state="detached")
    seen.settled()
    assert len(seen.titles("popular")) == 5
    assert [url for _, url in seen.asked if key in url] == []
    assert seen.page.evaluate("Object.values(sessionStorage)") == [key]
    assert seen.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def fallen_back(kind: str) -> Callable[[Any], None]:
    """Answers as the service does when its model cannot."""

    def answer(route: Any) -> None:
        real = route.fetch()
        route.fulfill(response=real, json=real.json() | {"fallback": kind})

    return answer


def test_each_kind_of_fallback_is_named_in_words(tab: Seen) -> None:
    words = {
        "deadline": "the model took too long",
        "error": "the model failed",
        "alarm": "the model raised an alarm and rests",
    }
    for (kind, told), length in zip(words.items(), ("3", "10", "20"), strict=True):
        tab.page.route("**/v1/recommendations", fallen_back(kind))
        tab.page.get_by_role("combobox", name="Items").select_option(length)
        tab.page.locator(".list.trained .fallback", has_text=told).wait_for()
        tab.settled()
        allow(tab, "/v1/recommendations")
