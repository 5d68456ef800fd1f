"""The page before axe-core, which most auditors use: no violation, in whatever state and however wide it is."""

import os
from pathlib import Path
from typing import Any

import pytest

from .browser import Opens, Seen, browser_fixture, opens_fixture, parts_fixture, service_fixture  # noqa: F401
from .test_page_looks import fill

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
