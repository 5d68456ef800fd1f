"""The page in a real browser: its colours, its width, its focus, what axe-core finds, and what it never does."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

import what_next

from .browser import (  # noqa: F401
    Opens,
    Seen,
    browser_fixture,
    opens_fixture,
    parts_fixture,
    service_fixture,
    tab_fixture,
)

FOLDER = Path(what_next.__file__).parent / "serving" / "page"
SERVED = sorted(path for path in FOLDER.iterdir() if path.suffix in {".css", ".html", ".js", ".svg"})

CONTRASTS = r"""() => {
  const rgba = (text) => text.match(/[\d.]+/g).map(Number);
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [red, green, blue] = colour.slice(0, 3).map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (one) => {
    const colour = rgba(getComputedStyle(one).backgroundColor);
    return (colour[3] ?? 1) === 1 ? colour : ground(one.parentElement);
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim();
    const one = texts.currentNode.parentElement;
    if (!text || !one.checkVisibility()) continue;
    const style = getComputedStyle(one);
    const colour = rgba(one instanceof SVGElement ? style.fill : style.color);
    const [light, dark] = [luminance(colour), luminance(ground(one))].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), text]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""
"""The contrast of each visible text with what lies behind it, as WCAG 2.2 defines it, lowest first."""

FOCUSED = """() => {
  const one = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  return [one.tagName, outlineStyle, parseFloat(outlineWidth), one.getBoundingClientRect().height];
}"""

BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5)
  .map((one) => one.outerHTML)"""

NAMELESS = """() => [...document.querySelectorAll('button, input, select')]
  .filter((one) => !(one.getAttribute('aria-label') || one.labels?.[0]?.innerText || one.innerText))
  .map((one) => one.outerHTML)"""

UNTOLD = """() => [...document.querySelectorAll('[aria-labelledby]')]
  .filter((one) => !document.getElementById(one.getAttribute('aria-labelledby')))
  .map((one) => one.outerHTML)"""


def fill(seen: Seen) -> None:
    """A page with everything on it: a history with its spread, a block, an error, an open search."""
    seen.search("people", "u9", "u9")
    seen.page.locator("svg.spread").wait_for()
    seen.settled()
    seen.changed(lambda: seen.page.locator(".list.popular button.never").first.click(), "popular")
    seen.failing = True
    seen.page.route("**/v1/events", lambda route: route.abort())
    seen.page.locator(".list.random button.skip").first.click()
    seen.page.locator(".item .trouble").wait_for()
    seen.page.locator("#titles").fill("Song")
    seen.page.locator("#titles-1").wait_for()
    seen.page.locator("#titles").press("ArrowDown")


UNRULY = ("Endless" * 1500, "word " * 2000, "مرحبا بالعالم (1995)", "")


def unruly(route: Any) -> None:
    """Answers with titles that are none, or no end of one; an event of a kind with a long name, and many attributes."""
    real = route.fetch()
    content = real.json()
    for items in (content.get("items", []), content.get("events", [])):
        for item, title in zip(items, UNRULY, strict=False):
            item["title"] = title
            item["event"] = "rated" * 50
            for reason in (item["reason"],) if item.get("reason") else ():
                reason["attributes"] = {f"a long name of an attribute {n}": n + 0.123456 for n in range(40)}
    route.fulfill(response=real, json=content)


def test_titles_without_end_are_cut_and_items_without_one_are_told_by_their_id(opens: Opens) -> None:
    seen = opens(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    seen.page.route("**/v1/recommendations", unruly)
    seen.page.route("**/history?*", unruly)
    seen.search("people", "u8", "u8")
    seen.page.locator("h2", has_text="Next for user u8").wait_for()
    seen.settled()
    seen.page.get_by_role("combobox", name="Items").select_option("5")
    seen.page.wait_for_function("() => document.querySelectorAll('.list.popular .item').length === 5")
    endless, words, other, nameless = seen.titles("popular")[:4]
    assert [len(endless), endless[-1]] == [200, "…"]
    assert len(words) == 200
    assert other == UNRULY[2]
    assert re.fullmatch(r"i\d+", nameless)
    title = seen.page.locator(".list.popular h4 cite").nth(2)
    assert title.evaluate("(one) => getComputedStyle(one).direction") == "rtl"
    buttons = seen.page.locator(".list.popular .item").nth(3).get_by_role("button")
    assert buttons.first.get_attribute("aria-label") == f"Play: {nameless}"
    assert seen.page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert seen.page.evaluate(BEYOND) == []


def test_the_option_that_enter_would_take_is_seen_where_colours_are_the_systems_own(opens: Opens) -> None:
    seen = opens(forced_colors="active")
    seen.settled()
    seen.page.locator("#titles").fill("Song")
    seen.page.locator("#titles-1").wait_for()
    seen.page.locator("#titles").press("ArrowDown")
    outlines = "[...document.querySelectorAll('#titles-options li')].map((e) => getComputedStyle(e).outlineStyle)"
    assert seen.page.evaluate(outlines)[:2] == ["solid", "none"]


def test_a_phone_shows_everything_without_scrolling_sideways(opens: Opens) -> None:
    seen = opens(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    seen.settled()
    fill(seen)
    assert seen.page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert seen.page.evaluate(BEYOND) == []
    boxes = [seen.page.locator(f".list.{policy}").bounding_box() for policy in ("trained", "popular", "random")]
    assert len({box["x"] for box in boxes}) == 1  # one below the other


UNDER_THE_LINE = """() => {
  const bottom = (one) => one.getBoundingClientRect().bottom;
  return document.activeElement.getBoundingClientRect().top - bottom(document.querySelector('.live'));
}"""


def test_the_spread_stays_in_sight_of_whoever_plays_on_a_phone_and_hides_no_focus(opens: Opens) -> None:
    seen = opens(viewport={"width": 360, "height": 740}, is_mobile=True, reduced_motion="reduce")
    seen.search("people", "u6", "u6")
    seen.page.locator("svg.spread").wait_for()
    seen.settled()
    seen.page.locator(".list.random button").last.focus()
    for _ in range(24):
        assert seen.page.evaluate(UNDER_THE_LINE) >= 5  # as wide as the outline and its distance
        line = seen.page.locator("svg.spread").bounding_box()
        assert 0 <= line["y"] < 60
        seen.page.keyboard.press("Shift+Tab")


def test_text_can_be_read_in_both_themes_which_differ(opens: Opens) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        seen = opens(color_scheme=scheme)
        seen.settled()
        fill(seen)
        contrasts = seen.page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert contrasts[0][0] >= 4.5, contrasts[:5]
        grounds.add(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_nothing_moves_for_those_who_asked_for_that(opens: Opens) -> None:
    moves = "getComputedStyle(document.querySelector('button.play')).transitionDuration"
    still = opens(reduced_motion="reduce")
    still.settled()
    assert still.page.evaluate(moves) == "0s"
    moving = opens(reduced_motion="no-preference")
    moving.settled()
    assert moving.page.evaluate(moves) != "0s"


def test_whatever_tab_reaches_shows_its_focus_and_is_large_enough(tab: Seen) -> None:
    seen = []
    for _ in range(16):
        tab.page.keyboard.press("Tab")
        seen.append(tab.page.evaluate(FOCUSED))
    assert [name for name, *_ in seen[:3]] == ["A", "INPUT", "INPUT"]
    assert {name for name, *_ in seen} == {"A", "INPUT", "SELECT", "BUTTON"}
    assert all(style == "solid" and width >= 2 for _, style, width, _ in seen)
    assert all(height >= 24 for name, _, _, height in seen if name != "INPUT")


def test_every_control_has_a_name_and_every_id_is_there_once(tab: Seen) -> None:
    fill(tab)
    assert tab.page.evaluate(NAMELESS) == []
    assert tab.page.evaluate(UNTOLD) == []
    ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_the_page_is_strict_with_itself(opens: Opens) -> None:
    seen = opens()
    seen.settled()
    answer = seen.page.request.get(f"{seen.base}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    fetched = {url.removeprefix(f"{seen.base}/") for method, url in seen.asked if method == "GET"}
    assert {"", "page/page.js", "page/page.css", "page/lit-html.js"} <= fetched
    # A script of a stranger would be stopped: the check above sees real stops, since this one is seen.
    seen.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title=1'}))"
    )
    assert any("Content Security Policy" in text for text in seen.complaints)
    assert seen.page.title() == "What Next?"
    seen.complaints.clear()


def test_the_page_works_behind_a_prefix_of_all_paths(opens: Opens) -> None:
    seen = opens()
    seen.settled()
    prefix = f"{seen.base}/shop/"
    seen.page.route(
        f"{prefix}**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/shop/", "/")))
    )
    seen.asked.clear()
    seen.page.goto(prefix)
    seen.settled()
    assert seen.titles("trained")
    assert all(url.startswith(prefix) for _, url in seen.asked), seen.asked


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_place(path: Path) -> None:
    text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "://" not in text
    assert "style=" not in text


def test_the_library_is_the_one_that_is_named() -> None:
    digest = hashlib.sha256((FOLDER / "lit-html.js").read_bytes()).hexdigest()
    assert f"`{digest}`" in (FOLDER / "README.md").read_text()
    assert "BSD 3-Clause" in (FOLDER / "lit-html.LICENSE").read_text()


AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
VIOLATIONS = """async () => (await axe.run({ resultTypes: ["violations"] })).violations
  .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}: ${node.failureSummary}`))"""
EXPERIMENT = {
    "name": "trained:popular", "share": 0.5, "level": 95.0, "verdict": "trained", "assumes": "",
    "time": "2026-01-01T00:00:00Z",
    "arms": [{"name": "trained", "users": 400, "answers": 4000, "reward": 0.31},
             {"name": "popular", "users": 410, "answers": 4100, "reward": 0.2}],
    "difference": {"mean": 0.11, "low": 0.04, "high": 0.18},
}  # fmt: skip
LOOP = {
    "rounds": [{"number": 2, "began": 10**15, "step": "canary", "outcome": None, "facts": {}}],
    "numbers": {},
    "lines": [
        {"number": n, "time": 10**15 + n, "round": 2, "step": step, "told": f"{step} was done"}
        for n, step in enumerate(("begin", "export", "train", "judge", "shadow", "canary"))
    ],
}
BOREDOM = {
    "threshold": 4,
    "topics": [{"topic": "Folk", "plays": 4, "rest": 6}, {"topic": "Jazz", "plays": 1, "rest": 0}],
}


def bore(route: Any) -> None:
    """A history of a simulated listener, who is bored."""
    real = route.fetch()
    route.fulfill(response=real, json={**real.json(), "boredom": BOREDOM})


def everything(opens: Opens, **options: Any) -> Seen:
    """A page that shows all that it can show."""
    seen = opens(reduced_motion="reduce", **options)
    seen.page.route("**/v1/experiment", lambda route: route.fulfill(json={"experiment": EXPERIMENT}))
    seen.page.route("**/v1/loop", lambda route: route.fulfill(json=LOOP))
    seen.page.route("**/history?*", bore)
    seen.page.reload()
    seen.settled()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing(opens: Opens, scheme: str, options: dict[str, Any]) -> None:
    if not AXE.is_file():
        missing = "axe-core is missing: `make browser` brings it by npm"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    seen = everything(opens, color_scheme=scheme, **options)
    seen.page.evaluate(AXE.read_text())
    assert seen.page.evaluate(VIOLATIONS) == []
    fill(seen)
    seen.page.locator("#loop").wait_for()
    assert seen.page.evaluate(VIOLATIONS) == []
    # It does see what is wrong: a picture without a text.
    seen.page.evaluate("document.querySelector('main').append(new Image())")
    assert [one.split(":")[0] for one in seen.page.evaluate(VIOLATIONS)] == ["image-alt"]


def test_what_goes_on_is_told_in_words_too(opens: Opens) -> None:
    seen = everything(opens)
    below = seen.page.locator(".below")
    told = "Difference 0.110, 95 % between 0.0400 and 0.180 at any number of looks."
    assert below.locator("svg.interval").get_attribute("aria-label") == told
    assert below.locator("[aria-current=step]").inner_text() == "canary"
    assert below.locator(".timeline").first.locator("li").count() == 5
    assert seen.page.locator(".topics li").first.inner_text().split() == ["Folk", "bored,", "6", "more"]
    assert seen.page.locator(".dots i.on").count() == 5


def test_what_others_do_is_looked_at_again_and_again(opens: Opens) -> None:
    """Without anybody's doing: what was earned is another number after a while."""
    seen = everything(opens)
    later = {**EXPERIMENT, "verdict": None, "arms": [{**EXPERIMENT["arms"][0], "reward": 0.45}, EXPERIMENT["arms"][1]]}
    seen.page.route("**/v1/experiment", lambda route: route.fulfill(json={"experiment": later}))
    seen.page.locator(".arms", has_text="earned 0.450 an answer").wait_for()


def test_the_worth_of_a_play_is_told_to_simulated_listeners_alone(opens: Opens) -> None:
    sent = []
    for simulated in (False, True):
        seen = everything(opens) if simulated else opens()
        seen.settled()
        with seen.page.expect_request("**/v1/events") as asked:
            seen.page.locator(".list.popular button.skip").first.click()
        sent.append(asked.value.post_data_json.get("reward"))
        seen.settled()
    assert sent == [None, 0]
