"""A setup file is read as promised, and every mistake in it is told where, what, and what next."""

import re
import sys
from datetime import datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from what_next import algorithms
from what_next.algorithms import Algorithm, WhatNext
from what_next.errors import SetupError
from what_next.settings import Setup, reference, settings_of, template
from what_next.settings.file import Token, parse_text, quote, read_entries, tokens
from what_next.settings.reference import written
from what_next.settings.schema import explain, nest, resolve
from what_next.settings.setup import known_algorithms

FOUNDING = {
    "train": "yes",
    "model": "lstm",
    "data": "../data/My Songs.pkl",
    "epochs": "100",
    "model_agent_path": "../models/agent.safetensors",
    "model_critic_path": "../models/critic.safetensors",
}
PAIRS = [f"{key}, {value}" for key, value in FOUNDING.items()]
ONE_LINE = ", ".join(PAIRS)
LAYOUTS = {
    "one line": ONE_LINE,
    "one pair a line": "\n".join(PAIRS),
    "with trailing commas": ",\n".join(PAIRS) + ",\n",
    "cut after every comma": ONE_LINE.replace(", ", ",\n"),
    "bullets": "\n".join(f"* {pair}" for pair in PAIRS),
    "Windows line ends": "\r\n".join(PAIRS),
    "blank lines and doubled commas": ",\n\n,".join(PAIRS),
    "comments": "# the founding keys\n" + ", # one pair\n".join(PAIRS) + "\n  # the end",
    "capitals and white space": "\n".join(
        f" {key.upper()} ,{value if '/' in value else value.title()}\t" for key, value in FOUNDING.items()
    ),
}
MINIMAL = Setup(
    train=True, data=Path("d.csv"), model_agent_path=Path("a.safetensors"), model_critic_path=Path("c.safetensors")
)


def read(*more: str, text: str = ONE_LINE) -> Setup:
    return Setup.from_text("\n".join([text, *more]), "src")


def refusal(*more: str, text: str = ONE_LINE) -> str:
    with pytest.raises(SetupError) as refused:
        read(*more, text=text)
    return str(refused.value)


class TestReading:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_founding_keys_are_equal_in_every_layout(self, layout: str) -> None:
        assert read(text=LAYOUTS[layout]) == Setup(
            train=True,
            model="lstm",
            data=Path("data/My Songs.pkl"),
            epochs=100,
            model_agent_path=Path("models/agent.safetensors"),
            model_critic_path=Path("models/critic.safetensors"),
        )

    def test_entries_are_a_dictionary_of_text(self, tmp_path: Path) -> None:
        file = tmp_path / "setup.txt"
        file.write_text(LAYOUTS["bullets"])
        assert read_entries(file) == FOUNDING

    def test_words_lose_white_space_and_case_but_ids_keep_them(self) -> None:
        setup = read("split, Leave_Last _Out", "user, Anna B", "batch_size, 1 28")
        assert (setup.split.name, setup.user, setup.batch_size) == ("leave_last_out", ("Anna B",), 128)

    def test_dotted_keys_nest_and_a_group_alone_is_its_name(self) -> None:
        setup = read("selection, critic, selection.candidates, 8, split.test, 0.3, reward.spread.form, change")
        assert (setup.selection.name, setup.selection.candidates) == ("critic", 8)
        assert (setup.split.name, setup.split.test, setup.reward.spread.form) == ("users", 0.3, "change")

    def test_free_words_are_keys_below_their_group(self) -> None:
        words = (
            "reward.logged.Skip, -1\nreward.logged.add to cart, 5\nreward.logged.video.play, 1\nreward.logged.0.5, 2"
        )
        logged = read(words).reward.logged
        assert logged.numbers == {"skip": -1, "addtocart": 5, "video.play": 1, "0.5": 2}
        assert read(words, "reward.logged.skip.0, none").reward.logged == logged
        assert Setup(**read(words).as_json()).reward.logged == logged

    def test_lists_are_numbered_keys_in_the_order_of_their_numbers(self) -> None:
        assert read("user.10, J, user.2, B, user.1, A").user == ("A", "B", "J")

    def test_none_leaves_a_setting_open(self) -> None:
        setup = read("window, none, tolerance, None, user, none, log, none")
        assert (setup.window, setup.tolerance, setup.user, setup.log) == (None, None, (), None)
        assert read('log, "none"').log == Path("src/none")
        assert read("log, ~nobody-is-called-so/x").log == Path("src/~nobody-is-called-so/x")

    def test_paths_start_at_the_setup_files_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "deep" / "setup.txt"
        file.parent.mkdir()
        file.write_text(f"{ONE_LINE}, log, {tmp_path / 'log.jsonl'}")
        setup = Setup.read(file)
        assert setup.data == tmp_path / "data" / "My Songs.pkl"
        assert setup.log_path == tmp_path / "log.jsonl"

    def test_a_path_through_a_link_is_not_shortened_to_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "real" / "inner").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
        assert Setup.from_text(ONE_LINE, tmp_path / "link").data.resolve() == tmp_path / "real/data/My Songs.pkl"

    def test_the_log_stands_beside_the_agent(self) -> None:
        assert read().log_path == Path("models/agent.jsonl")

    def test_models_without_a_suffix_may_have_a_second_training_and_several_networks(self) -> None:
        paths = {"model_agent_path": Path("m/agent"), "model_critic_path": Path("m/critic")}
        setup = Setup(train=True, data=Path("d.csv"), algorithm="next_item", ensemble=2, **paths)
        for one in (setup.second, *setup.members):
            assert Setup(**one.as_json()) == one
            assert not {*one.model_paths} & {*setup.model_paths}

    def test_a_setup_is_frozen_and_survives_json(self) -> None:
        setup = read("user, 7, window, 20, algorithm, whatnext")
        assert Setup(**setup.as_json()) == setup
        with pytest.raises(Exception, match="frozen"):
            setup.epochs = 3


class TestOtherWays:
    TOML = """
train = true
model = "lstm"
data = "../data/My Songs.pkl"
epochs = 100
model_agent_path = "../models/agent.safetensors"
model_critic_path = "../models/critic.safetensors"
user = ["A", "B"]

[split]
name = "users"
test = 0.3
"""
    MORE = "user.1, A, user.2, B, split, users, split.test, 0.3"

    def test_toml_is_equal(self, tmp_path: Path) -> None:
        file = tmp_path / "src" / "setup.toml"
        file.parent.mkdir()
        file.write_text(self.TOML)
        assert Setup.read(file) == Setup.from_text(f"{ONE_LINE}, {self.MORE}", file.parent)

    def test_overrides_are_equal(self, tmp_path: Path) -> None:
        file = tmp_path / "setup.txt"
        file.write_text(", ".join(PAIRS[:2] + PAIRS[3:]) + ", data, other.csv, user, C, split, time")
        overrides = ["data=../data/My Songs.pkl", "user.1=A", "user.2=B", "split=users", "split.test=0.3"]
        assert Setup.read(file, overrides) == Setup.from_text(f"{ONE_LINE}, {self.MORE}", tmp_path)

    def test_groups_of_which_nothing_is_set_have_their_defaults(self, tmp_path: Path) -> None:
        file = tmp_path / "setup.toml"
        file.write_text(self.TOML + "[algorithm]\n[reward]\n[reward.logged]\n")
        assert Setup.read(file) == Setup.from_text(f"{ONE_LINE}, {self.MORE}", tmp_path)
        assert Setup.read(file, ["algorithm=sqn"]).algorithm.name == "sqn"
        assert not {"algorithm", "reward", "reward.logged"} & read_entries(file).keys()

    def test_free_words_are_read_and_overridden_one_by_one(self, tmp_path: Path) -> None:
        file = tmp_path / "setup.toml"
        toml = self.TOML.replace(
            "[split]", "[reward.logged]\n1 = -1\n2 = 0.5\nskip = 3\nvideo = { play = 4 }\n\n[split]"
        )
        file.write_text(toml)
        overrides = ["reward.logged.2=7", "reward.logged.skip=none"]
        assert Setup.read(file, overrides).reward.logged.numbers == {"1": -1, "2": 7, "video.play": 4}

    @pytest.mark.parametrize(
        ("line", "parts"),
        [
            ("epochs = 0", ["line 3", "epochs is '0'", "a whole number above 0"]),
            ("epochs = true", ["line 3", "epochs is 'True'", "a whole number above 0"]),
            ("epoch = 3", ["line 3", "'epoch'", "nearest is 'epochs'"]),
            ("[split]\ntest = 2", ["line 4", "split.test is '2'", "of at least 0 and below 1"]),
            ("epochs = {}", ["line 3", "epochs is an empty table", "a whole number above 0"]),
            ("window = {}", ["line 3", "window is an empty table", "or none"]),
            ("user = {}", ["line 3", "user is an empty table", "ids"]),
            ("user = [{}]", ["line 3", "user.1 is an empty table", "ids"]),
            ("[reward.logged.skip]", ["line 3", "reward.logged.skip is an empty table", "a number"]),
            ("[lop]", ["line 3", "'lop'", "nearest is 'log'"]),
            ("a = = 3", ["not TOML", "line 3"]),
            (f"epochs = {'9' * 5000}", ["not TOML", "4300 digits"]),
            (f"user = {'[' * 5000}", ["not TOML"]),
        ],
    )
    def test_toml_mistakes_are_told_with_their_line(self, tmp_path: Path, line: str, parts: list[str]) -> None:
        file = tmp_path / "setup.toml"
        file.write_text(f'train = true\ndata = "d"\n{line}\n')
        with pytest.raises(SetupError) as refused:
            Setup.read(file)
        assert all(part in str(refused.value) for part in [str(file), *parts])

    @pytest.mark.parametrize(
        ("override", "parts"),
        [
            ("epochs=0", ["epochs is '0'", "a whole number above 0"]),
            ("epoch=3", ["'epoch'", "nearest is 'epochs'"]),
            ("epochs", ["'epochs'", "key=value"]),
            ("=3", ["'=3'", "key=value"]),
        ],
    )
    def test_mistaken_overrides_are_told_as_the_command_lines(self, override: str, parts: list[str]) -> None:
        with pytest.raises(SetupError) as refused:
            Setup.from_text(ONE_LINE, overrides=[override])
        assert all(part in str(refused.value) for part in ["command line", *parts])

    def test_python_mistakes_are_told_alike(self) -> None:
        with pytest.raises(SetupError, match="epochs is 'many'; allowed: a whole number above 0") as refused:
            Setup(**{**MINIMAL.as_json(), "epochs": "many", "epok": 3})
        assert "nearest is 'epochs'" in str(refused.value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "parts"),
        [
            (
                "epoch, 3",
                ["setup, line 2", "'epoch'", "nearest is 'epochs'", "epoch, 3", "allowed: train, model"],
            ),
            ("split.tset, 1", ["line 2", "'split.tset'", "nearest is 'split.test'", "allowed: split.test"]),
            ("reward, spread", ["line 2", "'reward'", "allowed: reward.spread.weight, reward.spread.form"]),
            ("reward.logged.skip, no", ["line 2", "reward.logged.skip is 'no'", "allowed: a number or none"]),
            ("reward.logged.video.play, inf", ["line 2", "reward.logged.video.play is 'inf'", "a number or none"]),
            ("reward.logged.a, 1\nreward.logged.A, 2", ["line 3", "'reward.logged.a' is given twice", "line 2"]),
            ("reward.logged, 1", ["line 2", "'reward.logged'", "allowed: reward.logged.weight and reward.logged.WORD"]),
            ("window, 2", ["line 2", "window is '2'", "a whole number of at least 3 or none"]),
            ("loop.look, 1e308", ["line 2", "loop.look is '1e308'", "a number above 0 and at most 1e+09"]),
            ("relax, nan", ["line 2", "relax is 'nan'", "a number of at least 0"]),
            ("algorithm, reinforce, algorithm.trace, 0.5", ["line 2", "algorithm.trace is '0.5'; allowed: 1"]),
            ("log, a\0b", ["line 2", r"log is 'a\x00b'", "no path holds NUL", "allowed: a path or none"]),
            ("log, a\ud800b", ["line 2", r"log is 'a\ud800b'", "lone surrogate"]),
            ("clip, inf", ["line 2", "clip is 'inf'", "a number above 0"]),
            ("algorithm, sqnn", ["line 2", "algorithm is 'sqnn'", "allowed: whatnext, next_item", "nearest is 'sqn'"]),
            ("selection, best", ["line 2", "selection is 'best'", "random or critic"]),
            (
                "dim, 8 # wide",
                ["line 2", "dim is '8 # wide'", "a comment stands on a line of its own"],
            ),
            ("\nTRAIN, no", ["line 3", "'train' is given twice", "'no'", "'yes'", "line 1"]),
            ("split, time\nsplit.name, users", ["line 3", "'split.name' is given twice", "line 2"]),
            ("user, A, user.0, B", ["line 2", "'user.0' is given twice"]),
            (f"user.{'9' * 5000}, A", ["line 2", "there is no setting 'user.999", "(5,007 characters)"]),
            (f"reward.logged.{'9' * 5000}, no", ["line 2", "is 'no'", "a number or none"]),
            ("seed", ["line 2", "13 tokens", "odd number", "'seed'"]),
            ('log, "a', ["line 2", "'\"a'", "double quote"]),
            ('log, ""', ["line 2", "log is ''", "a path"]),
            ("split.test, 0.95", ["0.95 and 0.1", "a sum below 1"]),
        ],
    )
    def test_a_mistake_is_told_with_its_line_what_was_found_and_what_is_allowed(
        self, more: str, parts: list[str]
    ) -> None:
        message = refusal(more)
        assert [part for part in parts if part not in message] == []

    @pytest.mark.parametrize("epochs", ["0", "-5", "many", "1.5", "1e400"])
    def test_epochs_is_a_number_above_zero(self, epochs: str) -> None:
        message = refusal(text=ONE_LINE.replace("epochs, 100", f"epochs, {epochs}"))
        assert f"line 1: epochs is '{epochs}'; allowed: a whole number above 0" in message

    def test_train_is_yes_or_no(self) -> None:
        assert "line 1: train is 'maybe'; allowed: yes or no" in refusal(text=ONE_LINE.replace("yes", "maybe"))

    @pytest.mark.parametrize("key", ["train", "data", "model_agent_path", "model_critic_path"])
    def test_what_is_missing_is_told(self, key: str) -> None:
        message = refusal(text=", ".join(pair for pair in PAIRS if not pair.startswith(key)))
        assert f"the setting {key!r} is missing" in message

    def test_two_models_do_not_share_a_file(self) -> None:
        text = ONE_LINE.replace("critic.safetensors", "agent.safetensors")
        assert "allowed: two paths" in refusal(text=text)

    def test_what_does_not_go_together_is_told_with_its_place(self) -> None:
        assert refusal(text=ONE_LINE.replace("lstm", "gru")).startswith("setup, line 1: model is 'gru', and the ")
        with pytest.raises(SetupError, match=r"^command line: model is 'gru', and the "):
            Setup.from_text(ONE_LINE, overrides=["model=gru"])

    def test_every_mistake_is_told_at_once(self) -> None:
        assert refusal("dim, 0\nlayers, 0").splitlines() == [
            "setup, line 2: dim is '0'; allowed: a whole number above 0",
            "setup, line 3: layers is '0'; allowed: a whole number above 0",
        ]

    @pytest.mark.parametrize(
        "more",
        ["{}, 1", "epochs, {}", "algorithm, {}", "foo, {}", "split.{}, 1", "split.date, {}", "server.experiment, {}"],
    )
    def test_what_is_long_is_cut(self, more: str) -> None:
        assert len(refusal(more.format("x" * 10_000))) < 2_000

    def test_a_file_that_is_no_setup_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"no such setup file; what-next init"):
            Setup.read(tmp_path / "setup.txt")
        with pytest.raises(SetupError, match="cannot be read"):
            Setup.read(tmp_path)
        (tmp_path / "model.bin").write_bytes(b"\x80\x04\xff")
        with pytest.raises(SetupError, match="is not UTF-8 text"):
            Setup.read(tmp_path / "model.bin")


class TestJudging:
    BASE = "train, no, data, -, model_agent_path, a.safetensors, model_critic_path, c.safetensors"

    @pytest.mark.parametrize("given", ['evaluation.k, "5,20"', "evaluation.k.1, 5, evaluation.k.2, 20"])
    def test_several_lengths_of_slates(self, given: str) -> None:
        assert Setup.from_text(f"{self.BASE}, {given}").evaluation.k == (5, 20)
        assert Setup.from_text(self.BASE, overrides=["evaluation.k=5,20"]).evaluation.k == (5, 20)
        assert Setup(**Setup.from_text(f"{self.BASE}, {given}").as_json()).evaluation.k == (5, 20)

    @pytest.mark.parametrize("given", ["0", "5,5", "many", "-1", "1001", "none", "9" * 5000])
    def test_lengths_that_cannot_be(self, given: str) -> None:
        with pytest.raises(SetupError, match="allowed: different whole numbers of 1 to 1000"):
            Setup.from_text(self.BASE, overrides=[f"evaluation.k={given}"])

    def test_a_split_at_a_date_in_each_form(self, tmp_path: Path) -> None:
        moment = datetime(2000, 11, 30, 12)
        text = f"{self.BASE}, split, time, split.date, 2000-11-30T12:00"
        assert Setup.from_text(text).split.moment == moment
        toml = 'train = false\ndata = "-"\nmodel_agent_path = "a"\nmodel_critic_path = "c"\n[split]\nname = "time"\n'
        (tmp_path / "setup.toml").write_text(f"{toml}date = 2000-11-30T12:00:00\n")
        assert Setup.read(tmp_path / "setup.toml").split.moment == moment

    @pytest.mark.parametrize(
        "given",
        [
            "split, time, split.date, someday",
            "split.date, 2000-11-30",
            "split, time, split.date, 2000-11-30, split.quantile, 0.8",
        ],
    )
    def test_a_date_that_is_none_or_says_nothing(self, given: str) -> None:
        with pytest.raises(SetupError, match=r"split\.date is"):
            Setup.from_text(f"{self.BASE}, {given}")


class TestTemplate:
    def test_it_reads_back_with_the_data_that_it_was_made_for(self) -> None:
        setup = Setup.from_text(template('data/all, my "songs".csv'), "here")
        assert (setup.data, setup.window, setup.train) == (Path('here/data/all, my "songs".csv'), 20, True)

    def test_every_setting_stands_in_it_at_its_default(self) -> None:
        text = template("data.csv")
        everything = re.sub(r"(?m)^#(?! )", "", text)
        assert Setup.from_text(everything) == Setup.from_text(text)
        assert [token.text for token in tokens(everything)][::2] == [setting.key for setting in reference()]

    @pytest.mark.parametrize("kind", algorithms.KNOWN)
    def test_so_may_those_of_every_algorithm(self, kind: type[Algorithm]) -> None:
        name = kind.model_fields["name"].default
        own = "".join(f"{setting.key}, {setting.default}\n" for setting in settings_of(name) if setting.default)
        plain = f"{ONE_LINE}\nalgorithm, {name}\n"
        assert Setup.from_text(plain + own) == Setup.from_text(plain)

    def test_every_setting_is_described(self) -> None:
        assert [setting.key for setting in reference() if len(setting.description) < 10] == []


class Other(WhatNext):
    """An algorithm of somebody else's."""

    name: Literal["other"] = "other"
    discount: float = 0.5
    layers: tuple[int, ...] = (16, 8)
    words: list[str] = Field(default_factory=list)


class One(WhatNext):
    """The first of two."""

    name: Literal["one"] = "one"


class Several(BaseModel):
    """A group with a choice of models, as the settings have once there is more than one algorithm."""

    algorithm: Annotated[One | Other, Field(discriminator="name")] = One()


class TestAlgorithms:
    def test_the_one_that_is_chosen_gives_the_keys(self) -> None:
        def build(text: str) -> Several:
            entries, fields = resolve(Several, parse_text(text))
            values = nest(entries, fields, Path())
            try:
                return Several.model_validate(values)
            except ValidationError as error:
                raise explain(error, Several, {entry.key: entry for entry in entries}, "setup") from None

        assert build("algorithm, other, algorithm.discount, 0.1").algorithm == Other(discount=0.1)
        assert build('algorithm, other, algorithm.layers, "3,4"').algorithm == Other(layers=(3, 4))
        for text, message in [
            ("algorithm, on", "line 1: algorithm is 'on'; allowed: one or other; the nearest is 'one'"),
            ("algorithm, one, algorithm.discount, 0.1", "line 1: there is no setting 'algorithm.discount'"),
            ("algorithm, other\nalgorithm.discount, x", "line 2: algorithm.discount is 'x'; allowed: a number"),
            (
                'algorithm, other\nalgorithm.layers, "3,x"',
                "line 2: algorithm.layers is '3,x'; allowed: whole numbers, such as \"5,10\"",
            ),
        ]:
            with pytest.raises(SetupError, match=f"{re.escape(message)}($|;)"):
                build(text)

    def test_an_object_of_ones_own_is_taken_from_python(self) -> None:
        setup = Setup(**{**dict(MINIMAL), "algorithm": Other(discount=0.9, words=["a,b"])})
        assert setup.as_json()["algorithm"] == setup.algorithm.model_dump(mode="json")
        assert 'algorithm.words.0, "a,b"' in written(setup, Path())

    def test_installed_packages_add_theirs_and_a_broken_one_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        points = [
            EntryPoint(name, value, "what_next.algorithms")
            for name, value in [
                ("other", "plugin:Other"),
                ("gone", "no_such_module:Gone"),
                ("dict", "builtins:dict"),
                ("taken", "what_next.algorithms:WhatNext"),
            ]
        ]
        monkeypatch.setattr("what_next.settings.plugins.entry_points", lambda group: points)
        monkeypatch.setitem(sys.modules, "plugin", SimpleNamespace(Other=Other))
        with pytest.warns(UserWarning, match=r"no_such_module|builtins:dict|is taken") as told:
            known = known_algorithms()
        assert known == {one.model_fields["name"].default: one for one in algorithms.KNOWN} | {"other": Other}
        assert len(told) == 3


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


class TestTokens:
    @given(st.lists(TEXTS), st.sampled_from([",", "\n", ",\n", " , \n\n,", "\r\n"]))
    def test_what_is_quoted_reads_back(self, texts: list[str], separator: str) -> None:
        assert [token.text for token in tokens(separator.join(map(quote, texts)))] == texts

    @given(st.text(st.sampled_from('ab,\n\r "#*=\t')))
    def test_any_text_that_reads_reads_back(self, text: str) -> None:
        try:
            found = [(token.text, token.quoted) for token in tokens(text)]
        except SetupError:
            assume(False)
        assert all(value or quoted for value, quoted in found)
        again = tokens(",".join(quote(value) for value, _ in found))
        assert [token.text for token in again] == [value for value, _ in found]

    @pytest.mark.parametrize("text", ['"a', '"a\n"', '"a" b', '"a" # b', '"a"b"'])
    def test_a_quote_that_does_not_close_is_refused(self, text: str) -> None:
        with pytest.raises(SetupError, match="double quote"):
            list(tokens(text))

    def test_lines_quotes_bullets_and_comments(self) -> None:
        text = '* a, "b, #1"\n# no, token\n** c # here, "* d",\n\n"say ""hi"""'
        assert list(tokens(text)) == [
            Token("a", 1),
            Token("b, #1", 1, quoted=True),
            Token("* c # here", 3),
            Token("* d", 3, quoted=True),
            Token('say "hi"', 5, quoted=True),
        ]

    def test_a_line_break_cannot_be_written(self) -> None:
        with pytest.raises(SetupError, match="line break"):
            quote("a\nb")
