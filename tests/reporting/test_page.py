"""The page of a comparison: what is on it, what can never be on it, and the same bytes for the same comparison."""

import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
import pytest

from what_next import Dataset
from what_next.errors import MissingExtraError, SaveError
from what_next.experiments.next_items import Comparison
from what_next.reporting import check, write_report
from what_next.reporting.page import page

from .films import comparison_of, hits, log_and_items

SECTIONS = [
    "judged", "metrics", "tradeoff", "learning", "calibration", "space", "tail", "groups", "worst", "stories", "table",
]  # fmt: skip
VOID = {"meta", "br", "img", "link", "hr"}
MINUS = "\N{MINUS SIGN}"
HOSTILE = '<script>alert("1")</script> & $x^2$\x00\n</svg><img src=http://evil>'


class Reader(HTMLParser):
    """Tags that do not balance, ids, links and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found[name] for name in ("href", "src", "xlink:href") if found.get(name)]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def test_the_page_fetches_nothing_and_runs_nothing(text: str) -> None:
    read = Reader(text)
    assert "http" not in text.replace("http-equiv", "")
    assert not read.tags.keys() & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert all(link.startswith("#") for link in read.links)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text
    policy = dict(read.attributes)["content"], [value for name, value in read.attributes if name == "content"]
    assert any("default-src 'none'" in value for value in policy[1])


def test_the_page_is_well_formed_and_every_id_is_there_once(text: str) -> None:
    read = Reader(text)
    assert max(Counter(read.ids).values()) == 1
    assert {link[1:] for link in read.links} | set(re.findall(r"url\(#([^)]*)\)", text)) <= set(read.ids)
    assert "NaN" not in read.text
    assert not re.search(r"\b(nan|None|inf)\b", read.text)


def test_every_section_is_there_and_in_the_contents(text: str) -> None:
    read = Reader(text)
    assert [one for one in read.ids if one in SECTIONS] == SECTIONS
    assert [link[1:] for link in read.links if link[1:] in SECTIONS] == SECTIONS
    assert read.tags["h1"] == 1
    assert read.tags["svg"] == sum(name == "role" and value == "img" for name, value in read.attributes)
    assert read.tags["table"] == read.tags["caption"] > 0


@pytest.mark.medium
def test_the_same_comparison_is_written_as_the_same_bytes_whatever_matplotlib_is_set_to(
    made: Comparison, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "report.html"
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9}):
        write_report(made, path)
    assert path.read_bytes() == text.encode()
    with pytest.raises(SaveError, match=r"cannot be written"):
        write_report(made, tmp_path / "new")
    with pytest.raises(SaveError, match=r"cannot be written"):
        check(tmp_path / "new")
    check(path)
    assert path.read_bytes() == text.encode()


def test_no_text_of_the_data_becomes_markup(setup_of, tmp_path) -> None:
    dataset = log_and_items(titles=[f"{HOSTILE} {place}" for place in range(30)], hostile=HOSTILE)
    agent, rival = f"agent{HOSTILE}", f"rule{HOSTILE}"
    setup = setup_of(tmp_path, algorithm="next_item")
    plain = comparison_of(setup, dataset, {"agent": hits(dataset, 0.3), "rule": hits(dataset, 0.6)})
    policies = {agent: plain.result["policies"]["agent"], rival: plain.result["policies"]["rule"]}
    groups = {f"kind{HOSTILE}": {name: {"users": 3, "policies": policies} for name in (f"a{HOSTILE}", "b")}}
    comparison = replace(
        plain,
        result={**plain.result, "policies": policies, "groups": groups, "differences": {f"{agent} - {rival}": {}}},
        scores={agent: plain.scores["agent"], rival: plain.scores["rule"]},
        setups={agent: [setup]},
    )
    read = Reader(page(comparison))
    assert not read.tags.keys() & {"script", "img"}
    shown = '<script>alert("1")</script> & $x^2$ </svg><img src=http://evil>'
    for what in (f"agent{shown}", f"rule{shown}", f"{shown} 5", f"films{shown}", f"{shown}u00", f"By kind{shown}"):
        assert what in read.text
    assert "\0" not in read.text
    assert f"Drama{shown}"[:20] in read.text


def test_a_title_neither_turns_nor_moves_what_is_beside_it(text: str) -> None:
    assert "cite, b { unicode-bidi: isolate; }" in text  # U+202E turns all that follows it, up to the end of a line
    assert ".worst cite { display: block; overflow-wrap: anywhere; }" in text


def test_what_is_missing_is_said(setup_of, tmp_path) -> None:
    log = pl.DataFrame({"user_id": np.repeat(np.arange(20), 6), "item_id": np.tile(np.arange(15), 8)})
    bare = Dataset.from_frame(log, name="bare")
    setup = setup_of(tmp_path, algorithm="next_item")
    found = Reader(page(comparison_of(setup, bare, {"agent": hits(bare, 0.5), "popular": hits(bare, 0.5)})))
    assert [one for one in found.ids if one in SECTIONS] == SECTIONS
    for said in ("no log of training", "have no categories", "have no attributes, so there is no map"):
        assert said in found.text
    assert "without attributes" in found.text


def test_one_user_and_one_policy_are_enough(setup_of, tmp_path) -> None:
    one = log_and_items(users=1)
    found = Reader(page(comparison_of(setup_of(tmp_path, algorithm="next_item"), one, {"agent": hits(one, 1)})))
    assert found.tags["article"] == 1
    assert "no other policy" in found.text
    assert "How well agent predicts what comes next" in found.text


def test_numbers_of_the_comparison_stand_in_its_figures_and_tables(made: Comparison, text: str) -> None:
    forest = re.search(r'<svg[^>]*aria-label="ndcg@10: .*?</svg>', text, re.DOTALL)
    assert forest
    for name in ("agent", "popular", "untrained"):
        mean = made.result["policies"][name]["ndcg@10"]["mean"]
        assert f"{mean:.3f}" in re.findall(r">([^<]+)</text>", forest[0])
        assert name in re.findall(r">([^<]+)</text>", forest[0])
        assert f"<td>{mean:.3f}<small>" in text
    agent = made.result["policies"]["agent"]["hr@10"]
    assert f"<strong>{100 * agent['mean']:.1f}\N{NO-BREAK SPACE}%</strong>" in text


def test_several_weights_are_a_curve_several_policies_have_colours_and_windows_a_table(made: Comparison) -> None:
    several = replace(made, setups={"agent": made.setups["agent"], "untrained": made.setups["agent"]})
    interval = {"mean": -0.25, "low": -0.5, "high": -0.125, "n": 7}
    windows = {
        "data": "films",
        "split": {"kind": "users", "part": "test", "users": 7, "hash": "abc"},
        "seeds": [0],
        "windows": {"5": {"windows": 9}},
        "policies": {"agent": {"spread@5": interval}, "true_next": {"spread@5": interval}},
        "differences": {"agent-steer": {"spread@5": interval}},
        "share_of_oracle": {"agent": {"spread@5": interval}},
    }
    found = page(several, [(4.0, made), (0.0, made)], windows)
    assert {"weight 0", "weight 4"} <= set(re.findall(r">([^<]+)</text>", found))
    assert found.index(">weight 0<") < found.index(">weight 4<")
    assert '<b class="one">agent</b>' in found
    assert '<b class="two">untrained</b> differs from <b class="one">agent</b>' in found
    read = Reader(found)
    assert read.ids.index("judged") < read.ids.index("windows") < read.ids.index("metrics")
    told = "agent learned to steer the spread of a history, not to predict what comes next. By windows: steer"
    assert told in read.text
    rule = "steer, a rule that steers the spread to the average user's and learns nothing"
    assert f"{rule}, wins beyond the interval over agent" in read.text
    assert "true_next" in read.text
    assert f"<td>{MINUS}0.250<small>[{MINUS}0.500,\N{NO-BREAK SPACE}{MINUS}0.125]" in found


def test_every_colour_of_the_page_is_defined_and_can_be_read(text: str) -> None:
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media screen", 1))
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= {*light, "sans", "lead"}
    assert "#a0b0" not in text
    for colours in (light, dark):
        for name in ("ink", "soft", "one", "two", "three", "four", "rival"):
            for ground in ("paper", "card"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        assert contrast(colours["muted"], colours["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of the Web Content Accessibility Guidelines 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_its_libraries_the_extra_is_named(
    library: str, made: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.startswith("what_next.reporting.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"a report needs {library}.*what-next-rl\[report\]"):
        write_report(made, tmp_path / "report.html")
    with pytest.raises(MissingExtraError, match=library):
        check(tmp_path / "report.html")
