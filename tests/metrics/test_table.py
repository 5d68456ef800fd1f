"""What people read of a result."""

import pytest
from rich.console import Console

from what_next.reporting.terminal import Folded, markdown, table


def told(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 189}


def result(steer: tuple[float, float], agent: tuple[float, float] = (0.1, 0.05)) -> dict:
    values = {"agent": agent, "random": (0.02, 0.0), "steer": steer, "oracle": (0.26, 0.16)}
    policies = {name: {"spread@5": told(five), "spread@10": told(ten)} for name, (five, ten) in values.items()}
    policies["agent"]["hr@10"] = told(0.03)
    return {
        "data": "ml-100k",
        "split": {"kind": "users", "users": 189, "hash": "0123456789abcdef"},
        "seeds": [0, 1, 2],
        "windows": {
            length: {"windows": count, "users": 189, "too_short": 0} for length, count in (("5", 3701), ("10", 3522))
        },
        "policies": policies,
        "differences": {
            "agent-random": {"spread@5": told(0.08)},
            "agent-steer": {"spread@5": told(agent[0] - steer[0]), "spread@10": told(agent[1] - steer[1])},
        },
        "share_of_oracle": {"agent": {"spread@5": told(0.38)}},
    }


@pytest.mark.parametrize(
    ("steer", "verdict"),
    [
        ((0.2, 0.07), "wins beyond the interval over `agent` at windows of 5 and 10 events"),
        ((0.2, 0.055), "wins beyond the interval over `agent` at windows of 5 events"),
        ((0.09, 0.04), "wins beyond the interval over `agent` nowhere"),
    ],
)
def test_the_first_sentence_says_where_steer_wins_and_on_what(steer, verdict):
    first = markdown(result(steer)).split("). ")[0]
    assert first.startswith("`steer`")
    assert verdict in first
    for fact in ("ml-100k", "189 users", "users 0123456789abcdef", "seeds 0, 1 and 2", "3,701 of 5", "3,522 of 10"):
        assert fact in first


def test_the_markdown_is_a_table_with_a_cell_for_every_metric():
    rows = [line for line in markdown(result((0.2, 0.06))).splitlines() if line.startswith("|")]
    assert rows[0] == "| policy | spread@5 | spread@10 | hr@10 |"
    assert rows[2] == "| agent | 0.100 [0.090, 0.110] | 0.050 [0.040, 0.060] | 0.030 [0.020, 0.040] |"
    assert rows[-2].startswith("| agent \N{MINUS SIGN} random | 0.080 [0.070, 0.090] |")
    assert {row.count("|") for row in rows} == {5}


def lines(shown: Folded, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(shown)
    return [
        " ".join(line.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split()) for line in captured.get().split("\n")
    ]


@pytest.mark.parametrize(
    ("width", "tables"), [(20, 5), (43, 5), (44, 3), (60, 3), (61, 2), (94, 2), (95, 1), (10_000, 1)]
)
def test_columns_that_do_not_fit_go_on_below_and_no_cell_is_cut(width: int, tables: int) -> None:
    header = ["policy", *(f"metric@{place}" for place in range(5))]
    rows = [[name, *(f"{place}.250\n[{place}.125, {place}.375]" for place in range(5))] for name in ("agent", "other")]
    found = lines(Folded("beyond", header, [rows[:1], rows[1:]]), width)
    text = "\n".join(found)
    assert (text.count("beyond"), text.count("\N{HORIZONTAL ELLIPSIS}")) == (1, 0)
    assert [text.count(name) for name in ("policy", "agent", "other")] == [tables] * 3
    for place in range(5):
        assert text.count(f"{place}.250") == 2
        if width > 20:  # else within a number's own digits
            assert text.count(f"[{place}.125, {place}.375]") == 2


def test_a_long_name_goes_on_in_the_next_line() -> None:
    name = "0123456789abcdef" * 5
    found = lines(Folded(None, ["policy", "mean", "interval"], [[[name, "0.25", "[0.125, 0.375]"]]]), 60)
    assert name in "".join(found).replace(" 0.25 [0.125, 0.375]", "")
    (whole,) = (line for line in lines(Folded(None, ["policy", "mean"], [[[name, "0.25"]]]), 91) if "0.25" in line)
    assert whole == f"{name} 0.25"


def test_a_title_is_neither_markup_nor_an_emoji_code():
    shown = lines(Folded("[/x] :a: [y]", ["policy"], [[["[/x] :b:"]]]), 91)
    assert "[/x] :a: [y]" in shown
    assert "[/x] :b:" in shown


def test_the_table_shows_policies_shares_and_differences():
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(result((0.2, 0.06))))
    text = captured.get()
    for shown in ("agent", "agent / oracle", "agent \N{MINUS SIGN} random", "0.260", "[0.250, 0.270]", "split users"):
        assert shown in text
