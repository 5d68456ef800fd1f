"""The parts of the page: what a drawing says, who is told of, and sentences that are true of the numbers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next import Dataset
from what_next.experiments.next_items import Comparison
from what_next.reporting import attributes, figures, stories, words
from what_next.reporting.drawing import HEX, drawn, label, shortened
from what_next.reporting.figures import described
from what_next.reporting.learning import binned, read_log, smoothed
from what_next.reporting.tables import of_windows
from what_next.reporting.terminal import minus
from what_next.reporting.view import View, between, cleaned, counted, number, percent

from .films import comparison_of, hits, with_values

MINUS, SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@pytest.fixture
def view(made: Comparison) -> View:
    return View(made)


class TestDrawing:
    def test_a_drawing_has_the_pages_colours_and_ids_of_its_own(self) -> None:
        def draw(axes) -> None:
            axes.plot([0, 1], [0, 1], "o", color=HEX["one"])
            axes.text(0, 0, "1.23456 <$a^2$> &", color=HEX["ink"])

        one, other = drawn(draw, "one", 'said "so" <b>'), drawn(draw, "other", "")
        assert 'role="img" aria-label="said &quot;so&quot; &lt;b&gt;"' in one
        assert "var(--one)" in one
        assert "1.23456 &lt;$a^2$&gt; &amp;</text>" in one  # a number in a text keeps its digits
        assert not re.search(r"#a0b0|font-family|http|<style|<metadata|\d\.\d{3}", one.replace("1.23456", ""))
        ids = [set(re.findall(r' id="([^"]*)"', text)) for text in (one, other)]
        assert ids[0]
        assert not ids[0] & ids[1]
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', one)) <= ids[0]

    def test_labels_keep_clear_of_each_other_and_of_points(self) -> None:
        boxes = []

        def draw(axes) -> None:
            points = [(0.5, 0.5), (0.5, 0.51), (0.51, 0.5)]
            axes.plot(*zip(*points, strict=True), "o")
            axes.set(xlim=(0, 1), ylim=(0, 1))
            label(axes, points, ["first", "second", "third"], ["ink"] * 3)
            renderer = axes.figure.canvas.get_renderer()
            boxes.extend(text.get_window_extent(renderer) for text in axes.texts)

        drawn_by_agg(draw)
        assert len(boxes) == 3
        for place, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[place + 1 :])

    def test_long_names_are_shortened(self) -> None:
        assert shortened("a" * 22) == "a" * 22
        assert shortened("a" * 23) == "a" * 21 + "\N{HORIZONTAL ELLIPSIS}"


def drawn_by_agg(draw) -> None:
    """On axes of a canvas that can measure text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3))
    FigureCanvasAgg(figure)
    draw(figure.add_axes((0.1, 0.1, 0.8, 0.8)))


class TestLearning:
    def test_a_log_is_read_as_far_as_it_is_whole(self, tmp_path) -> None:
        lines = [
            '{"passes": 1, "loss_actor": 3, "note": "text"}',
            "[1]",
            '{"passes": 2, "loss_actor": 2.5, "reward": NaN}',
        ]
        (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"passes": 3, "loss_ac']))
        found = read_log(tmp_path / "log.jsonl")
        assert {name: [one.tolist() for one in curve] for name, curve in found.items()} == {
            "passes": [[1, 2], [1, 2]],
            "loss_actor": [[1, 2], [3, 2.5]],
        }
        assert read_log(tmp_path / "none.jsonl") == {}

    def test_bins_hold_equally_many_steps(self) -> None:
        x, y = binned(np.arange(240.0), np.arange(240.0) ** 2)
        assert (len(x), x[0], y[0], x[-1]) == (120, 0.5, 0.5, 238.5)
        assert binned(np.arange(3.0), np.ones(3))[0].tolist() == [0, 1, 2]

    def test_a_smooth_point_is_the_mean_of_those_around_it(self) -> None:
        values = np.arange(50.0) ** 2  # 8 % of 50 points are 4, two on either side
        assert smoothed(values)[10] == pytest.approx((64 + 81 + 100 + 121 + 144) / 5)
        assert smoothed(values)[0] == pytest.approx((0 + 1 + 4) / 3)

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
    def test_a_smooth_curve_stays_within_the_raw_one(self, values: list[float]) -> None:
        found = smoothed(np.array(values))
        assert len(found) == len(values)
        assert min(values) - 1e-3 <= found.min() <= found.max() <= max(values) + 1e-3


class TestTail:
    def test_half_is_the_fewest_items_that_take_as_much(self) -> None:
        assert figures.half(np.array([0.5, 1.0])) == 1
        assert figures.half(np.array([0.49, 0.98, 1.0])) == 2
        assert figures.half(np.array([0.1, 0.2, 0.3, 1.0]), 0.3) == 3

    def test_shares_go_from_the_most_popular_item_on(self, view: View, films: Dataset) -> None:
        found = figures.shares(view)
        counts = np.sort(view.counts)[::-1]
        assert found[figures.LOG].tolist() == pytest.approx((counts.cumsum() / counts.sum()).tolist())
        slates, order = view.comparison.scores["agent"].slates, np.argsort(-view.counts, kind="stable")
        assert found["agent"][4] == pytest.approx(np.isin(slates, order[:5]).mean())
        assert all(one[-1] == pytest.approx(1) for one in found.values())


class TestAttributes:
    def test_shares_of_categories_are_told_as_they_are(self, view: View, films: Dataset) -> None:
        assert attributes.categories(view) == ["Drama", "Comedy"]
        shares = []
        for user in range(24):
            heard = films.items[films.offsets[user] : films.offsets[user + 1] - 1]
            drama, comedy = heard % 2, heard % 3 // 2
            weight = np.maximum(drama + comedy, 1)
            shares.append((drama / weight).sum() / ((drama + comedy) > 0).sum())
        chart = attributes.calibration(view)
        assert f"Drama: in histories {percent(float(np.mean(shares)))}, agent " in chart.svg
        assert [key.text for key in chart.legend] == ["in histories", "agent", "popular"]

    def test_the_plane_keeps_what_varies_most_and_names_its_ends(self, view: View) -> None:
        plane = attributes.Plane.of(view)
        vectors = view.comparison.state.space.catalogue.vectors.astype(float)
        values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
        assert plane.explained == pytest.approx((values[:2] / values.sum()).tolist(), rel=1e-6)
        assert np.square(plane.points).sum(axis=0).tolist() == pytest.approx(values[:2].tolist(), rel=0.02)
        named = {name for pole in plane.poles for end in pole for name in end.split(", ")} - {""}
        assert named
        assert named <= {"Drama", "Comedy", "length"}

    def test_distances_are_from_the_middle_of_each_history(self, view: View) -> None:
        vectors = view.comparison.state.space.catalogue.vectors.astype(float)
        far = [
            np.linalg.norm(vectors[item] - vectors[view.heard(row)].mean(0))
            for row in range(24)
            for item in view.slates("agent")[row]
        ]
        assert attributes.distances(view)["agent"] == pytest.approx(np.mean(far))


class TestStories:
    def test_the_three_are_chosen_by_rule(self, made: Comparison) -> None:
        values = {"agent": [0.2, 1.0, 1.0, 0.1] + [0.1] * 20, "popular": [0.2, 1.0, 0.0, 1.0] + [0.1] * 20}
        view = with_values(made, **values)
        chosen = {one.title: one.row for one in stories.picks(view)}
        assert list(chosen) == ["Well served", "Typical", "Badly served"]
        assert chosen["Well served"] == 2  # as well as user 1, whom `popular` serves as well
        assert chosen["Badly served"] == 3
        assert chosen["Typical"] == 4  # the first with the median; all histories are equally long

    def test_the_worst_come_first_and_nobody_who_is_served_as_well(self, made: Comparison) -> None:
        view = with_values(made, agent=[0.5, 0.0, 0.3, 1.0], popular=[0.4, 0.2, 0.9, 1.0])
        found = stories.worst(view)
        assert [(one.user, one.mine, one.theirs) for one in found] == [
            ("u02", "0.300", "0.900"),
            ("u01", "0.000", "0.200"),
        ]
        assert found[0].events == 7
        assert found[0].came == [view.titles[item] for item in view.came(2)]
        everyone = with_values(made, popular=[1.0] * 24, agent=[])
        assert len(stories.worst(everyone)) == stories.WORST

    def test_a_story_tells_what_was_heard_recommended_and_came(self, made: Comparison, films: Dataset) -> None:
        view = View(made)
        story = stories.story(view, stories.Pick(1, "", ""))  # the first item of the agent is what came
        heard = films.items[films.offsets[1] : films.offsets[2]]
        assert (story.user, story.events) == ("u01", f"7{SPACE}events")
        assert story.latest == [f"Film {item}" for item in heard[-4:-1]]
        assert story.came == [f"Film {heard[-1]}"]
        assert story.slate[0] == (f"Film {heard[-1]}", True)
        assert [hit for _, hit in story.slate[1:]] == [False] * 9
        assert story.ending == "agent had it first; popular had it first."
        assert "Drama" in story.taste or "Comedy" in story.taste

    def test_of_many_items_that_came_some_are_named_and_one_hit_is_enough(
        self, setup_of, films: Dataset, tmp_path
    ) -> None:
        setup = setup_of(tmp_path, algorithm="next_item", split="users", evaluation={"targets": "all"})
        comparison = comparison_of(setup, films, {"agent": hits(films, 1)})
        view, user = View(comparison), int(comparison.evaluator.targets.users[0])
        later = set(films.items[films.offsets[user] + 1 : films.offsets[user + 1]].tolist())
        story = stories.story(view, stories.Pick(0, "", ""))
        assert len(story.came) + story.more == len(later) > len(story.came) == 3
        assert {int(title.split()[1]) for title in story.came} <= later
        assert story.ending == "agent had one of them first."
        assert "names one of the items that came later within ten" in words.verdict(view)[0].striptags()

    @pytest.mark.parametrize(
        ("row", "ending"),
        [(8, "agent had it first; popular missed it."), (23, "Neither agent nor popular had it among ten.")],
    )
    def test_an_ending_says_who_missed_what(self, made: Comparison, films: Dataset, row: int, ending: str) -> None:
        slates = {name: one.slates.copy() for name, one in made.scores.items()}
        wanted = films.items[films.offsets[row + 1] - 1]
        for name in slates:
            slates[name][0, row][slates[name][0, row] == wanted] = -1
        if row == 8:
            slates["agent"][0, row, 0] = wanted
        judged = {name: replace(one, slates=slates[name]) for name, one in made.scores.items()}
        view = View(replace(made, scores=judged))
        assert stories.story(view, stories.Pick(row, "", "")).ending == ending


class TestWords:
    @pytest.mark.parametrize(
        ("mine", "theirs", "said"),
        [
            (0.9, 0.2, "agent predicts what comes next better than rule, the best of the baselines"),
            (0.2, 0.9, "rule, a baseline, predicts what comes next better than agent"),
            (0.5, 0.5, "agent and rule, the best of the baselines, cannot be told apart"),
        ],
    )
    def test_the_headline_is_honest(self, setup_of, films: Dataset, tmp_path, mine, theirs, said: str) -> None:
        setup = setup_of(tmp_path, algorithm="next_item")
        view = View(comparison_of(setup, films, {"agent": hits(films, mine), "rule": hits(films, theirs)}))
        assert words.headline(view) == said
        told = " ".join(words.verdict(view))
        assert ("more than chance explains" in told) == (mine != theirs)
        assert ("these users do not tell the two apart" in told) == (mine == theirs)
        assert ("worse by more than" in told) == (mine < theirs)

    @pytest.mark.parametrize(
        ("low", "high", "sign"), [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0, 0.1, 0), (-0.1, 0, 0)]
    )
    def test_a_difference_is_one_where_zero_lies_outside(self, low, high, sign) -> None:
        assert words.sign({"mean": (low + high) / 2, "low": low, "high": high, "n": 3}) == sign

    def test_an_agent_before_its_first_step_is_nobodys_rival(self, setup_of, films: Dataset, tmp_path) -> None:
        named = {"agent": hits(films, 1), "untrained": hits(films, 0.9), "rule": hits(films, 0.2)}
        view = View(comparison_of(setup_of(tmp_path, algorithm="next_item"), films, named))
        assert (view.lead, view.rival, view.shown) == ("agent", "rule", ["agent", "rule"])
        assert [view.colour(name) for name in named] == ["one", "muted", "rival"]

    def test_what_was_judged_is_told_with_its_counts(self, made: Comparison) -> None:
        targets = {**made.result["targets"], "held": 3, "cold_users": 1, "cold_items": 0, "without_history": 2}
        view = View(
            replace(made, result={**made.result, "targets": targets, "baselines": {"ease": {"penalty": 200.0}}})
        )
        facts = dict(words.facts(view))
        assert f"24{SPACE}targets of 24{SPACE}users" in facts["Judged on"]
        assert facts["Counted apart"] == (
            f"3{SPACE}targets that their histories hold already; 1{SPACE}user of whom training knows nothing; "
            f"2{SPACE}users without an event before the target, not judged; "
            "1 user with fewer than three events, for training alone"
        )
        assert made.result["split"]["hash"] in facts["Split"]
        assert facts["Baselines"] == "ease with penalty 200"
        assert facts["Trained"] == "agent: next_item on lstm, seed 0"
        assert "may not be recommended again" in facts["Ranked"]

    def test_a_difference_that_the_result_lacks_is_taken_from_the_same_users(self, view: View) -> None:
        told = view.difference("agent", "popular", "ndcg@10")
        bare = View(replace(view.comparison, result={**view.result, "differences": {}}))
        assert told is not None
        assert bare.difference("agent", "popular", "ndcg@10") == pytest.approx(told)
        assert json.dumps(told) != json.dumps(bare.difference("popular", "agent", "ndcg@10"))


def test_many_rows_are_sampled_and_long_histories_cut_the_same_way_every_time(view: View) -> None:
    assert view.some_rows().tolist() == list(range(24))
    some = view.some_rows(5).tolist()
    assert some == sorted(set(some)) == view.some_rows(5).tolist()
    assert len(some) == 5
    assert view.histories(view.some_rows(5), most=3).tolist() == [view.heard(row)[-3:].tolist() for row in some]


def test_a_metric_is_told_at_its_own_cutoff() -> None:
    assert "in the slate of 5;" in described("hr@5")
    assert "after the last 20 events" in described("spread@20")
    assert described("repeats").startswith("the share of recommended items")
    assert described("made up") == ""


def test_numbers_are_written_with_a_minus_and_never_as_less_than_nothing() -> None:
    assert [number(value) for value in (0.12345, -0.5, -0.0001, 123.456, 1234.5)] == [
        "0.123", f"{MINUS}0.500", "0.000", "123.5", "1,234",
    ]  # fmt: skip
    assert percent(0.0123) == f"1.2{SPACE}%"
    assert between({"mean": 1.0, "low": -0.5, "high": 2.0, "n": 1}) == f"[{MINUS}0.500,{SPACE}2.000]"
    assert (counted(1, "user"), counted(1234, "user")) == (f"1{SPACE}user", f"1,234{SPACE}users")
    assert cleaned(" a\x00b\r\nc\u2028 ") == "a b c"
    assert (minus("agent-item_knn"), minus("a-b - c")) == (f"agent {MINUS} item_knn", f"a-b {MINUS} c")


def test_a_table_has_no_more_columns_than_fit_beside_each_other() -> None:
    told = {f"policy {n}": {"hr@10": {"mean": n / 20, "low": 0.0, "high": 1.0, "n": 3}} for n in range(16)}
    windows = {"windows": {}, "data": "d", "split": {"users": 1, "kind": "users", "hash": "0"}, "seeds": [0]}
    _, tables = of_windows({**windows, "policies": told, "differences": {}, "share_of_oracle": {}})
    assert [len(table.columns) for table in tables] == [7, 7, 2]
    assert [name for table in tables for name, _ in table.columns] == list(told)
    assert [mean for table in tables for mean, _ in table.rows[0][2]][7] == number(7 / 20)
    assert "columns 8 to 14 of 16" in tables[1].caption
