"""What is said to people: it names what they meant, completely, and in a few lines."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import what_next as wn
from what_next.cli import app
from what_next.cli.options import names_of
from what_next.errors import SetupError
from what_next.settings import ALGORITHMS, Setup, settings_of, template

from .conftest import Trained

LINES = [
    "train, yes",
    "model, lstm",
    "data, d.csv",
    "epochs, 100",
    "model_agent_path, a.safetensors",
    "model_critic_path, c.safetensors",
]


def refusal(*more: str, **changes: str) -> str:
    lines = [changes.get(line.partition(",")[0], line) for line in LINES]
    with pytest.raises(SetupError) as refused:
        Setup.from_text("\n".join([*lines, *more]))
    return str(refused.value)


def say(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["what-next", *map(str, words)])
    return app.main()


@pytest.mark.parametrize(
    ("text", "names"),
    [("A, B,,C ", ["A", "B", "C"]), ('"shirt, blue", 7" single', ["shirt, blue", '7" single']), ("", []), (None, None)],
)
def test_a_name_with_a_comma_in_it_stands_in_double_quotes(text: str | None, names: list[str] | None) -> None:
    assert names_of(text) == names


def test_what_an_option_is_for_is_told_without_its_name() -> None:
    def helps(command: Any) -> Iterator[str]:
        for one in getattr(command, "commands", {}).values():
            yield from helps(one)
        yield from (part.help for part in command.params if getattr(part, "help", None))

    found = set(helps(typer.main.get_command(app.app)))
    assert len(found) > 80
    assert not [told for told in found if re.match("(Of|For|Over|They) ", told)]


class TestKeys:
    def test_an_algorithms_name_within_a_key_is_answered_with_the_key(self) -> None:
        told = refusal("algorithm, sqn", "algorithm.sqn.weight, 1")
        assert "with `algorithm, sqn` it is called 'algorithm.weight'" in told
        assert "allowed: algorithm.weight and algorithm.tau (" in told

    def test_a_key_of_another_algorithm_names_those_that_have_it(self) -> None:
        assert "it belongs to sqn, sac_rec, snqn, sa2c, iql and crr" in refusal("algorithm.weight, 1")

    @pytest.mark.parametrize("key", ["evaluation.q", "evaluaton.k", "evaluation"])
    def test_the_keys_of_the_mistyped_group_are_listed_completely(self, key: str) -> None:
        assert "allowed: evaluation.k, evaluation.targets and evaluation.seen (" in refusal(f"{key}, 5")

    @pytest.mark.parametrize("key", ["reward.spred.weight", "rewards.spread.weight"])
    def test_of_nested_groups_too(self, key: str) -> None:
        named = re.findall(r"reward\.\w+\.\w+", refusal(f"{key}, 5").partition("allowed:")[2])
        assert {one.split(".")[1] for one in named} >= {"spread", "logged", "novelty", "return_time"}

    def test_a_key_below_a_setting_that_is_no_group_lists_what_there_is(self) -> None:
        assert "allowed: train, model, data, " in refusal("user.x, 1")

    def test_at_the_top_groups_are_listed_beside_settings(self) -> None:
        told = refusal("bach_size, 5")
        assert "the nearest is 'batch_size'" in told
        for name in ("batch_size", "reward.*", "inputs.*", "server.*", "loop.*", "evaluation.*", "split", "algorithm"):
            assert f"{name}," in told or f"{name} and " in told or f"and {name} (" in told


class TestFiles:
    @pytest.mark.parametrize("place", range(len(LINES)))
    def test_a_missing_comma_is_reported_on_its_line(self, place: int) -> None:
        key, _, value = LINES[place].partition(", ")
        told = refusal(**{key: f"{key} {value}"})
        assert f"line {place + 1}: " in told
        assert f"{f'{key} {value}'!r} has no partner" in told
        assert "comma" in told

    def test_of_two_missing_commas_the_first(self) -> None:
        told = refusal(model="model lstm", epochs="epochs 100")
        assert "line 2: " in told
        assert "is a comma missing after 'model'?" in told

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("log.csv", "what-next init DATA"), ("log.parquet", "what-next init DATA"), ("a.safetensors", "inspect")],
    )
    def test_what_is_no_setup_is_recognised(self, tmp_path: Path, name: str, hint: str) -> None:
        (tmp_path / name).write_bytes(b"PAR1\x00\xff")
        with pytest.raises(SetupError, match=f"{name}: is a .*, not a setup.*{hint}"):
            Setup.read(tmp_path / name)

    def test_numbers_beyond_64_bits_are_one_clear_message(self) -> None:
        for key in ("seed", "batch_size", "dim", "split.seed"):
            told = refusal(f"{key}, {10**30}")
            assert told.endswith("below 2^63")
            assert told.count("2^63") == 1
            assert "9.22" not in told
        assert len(refusal(f"dim, {'9' * 5000}")) < 250


class TestCommands:
    def test_the_version(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert say(monkeypatch, "--version") == 0
        assert capsys.readouterr().out.strip() == f"what-next {wn.__version__}"

    def test_algorithms_are_listed_with_a_line_and_their_settings(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert say(monkeypatch, "list", "algorithms") == 0
        lines = capsys.readouterr().out.splitlines()
        heads = [line for line in lines if not line.startswith(" ")]
        assert [line.split()[0] for line in heads] == list(ALGORITHMS)
        assert all(len(line.split()) > 4 for line in heads)
        place = lines.index(next(line for line in heads if line.startswith("sqn ")))
        assert [line.strip() for line in lines[place + 1 : place + 3]] == [
            "algorithm.weight, 0.5",
            "algorithm.tau, 0.005",
        ]

    @pytest.mark.parametrize("name", ["sqn", "cql", "td3_bc"])
    def test_init_writes_the_keys_of_every_algorithm(self, name: str) -> None:
        text = template("d.csv")
        _, _, part = text.partition(f"# With `algorithm, {name}` (")
        keys = [setting.key for setting in settings_of(name)]
        assert re.findall(r"^# {3}(algorithm\.\w+), ", part.partition("# With")[0], re.MULTILINE) == keys

    def test_a_network_beyond_all_memory_is_refused_before_it_is_built(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        setup = tmp_path / "setup.txt"
        setup.write_text(
            f'train, yes\ndata, "{trained.setup.data}"\ndim, 100000\n'
            "model_agent_path, a.safetensors\nmodel_critic_path, c.safetensors\n"
        )
        for algorithm in ("whatnext", "next_item"):
            assert say(monkeypatch, "train", setup, f"algorithm={algorithm}") == 2
            told = capsys.readouterr().err
            assert told.startswith("what-next: dim is 100000 and layers is 1: ")
            assert "GiB of memory" in told
        assert not (tmp_path / "a.safetensors").exists()

    def test_serve_leaves_no_empty_store_where_the_model_is_missing(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "setup.txt").write_text(
            f'train, yes\ndata, "{trained.setup.data}"\nserver.port, 0\n'
            "model_agent_path, a.safetensors\nmodel_critic_path, c.safetensors\n"
        )
        assert say(monkeypatch, "serve", tmp_path / "setup.txt") == 2
        assert "a.safetensors: no such model file" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["setup.txt"]


class TestMistakes:
    """Each was a traceback, or left something behind."""

    @pytest.fixture
    def setup(self, trained: Trained, tmp_path: Path) -> Path:
        models = trained.folder
        (tmp_path / "setup.txt").write_text(
            f'train, yes\ndata, "{trained.setup.data}"\nmodel_agent_path, "{models}/agent.safetensors"\n'
            f'model_critic_path, "{models}/critic.safetensors"\nserver.store, store.sqlite\n'
        )
        return tmp_path / "setup.txt"

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("recommend", "SETUP", "--user", "u1", "--seed", "-1"), "for '--seed': '-1'; allowed: greater"),
            (("recommend", "SETUP", "--user", "u1", "--seed", "x"), "for '--seed': 'x'; allowed: a valid integer"),
            (("gate", "a", "b", "--log", "l.csv", "--looks", "x"), "for '--looks': 'x' is not one of"),
            (("recommend", "SETUP", "--history", ",,"), "names no item"),
            (("evaluate", "SETUP", "--seeds", "9" * 23), "whole numbers below 2^63"),
            (("train", "SETUP", "threads=100000"), "at most 1024"),
            (("key", "list", "SETUP"), "no such store"),
            (("key", "revoke", "SETUP", "--name", "a"), "no such store"),
        ],
    )
    def test_are_one_message(
        self,
        setup: Path,
        words: tuple[str, ...],
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert say(monkeypatch, *(setup if word == "SETUP" else word for word in words)) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
        assert [path.name for path in setup.parent.iterdir()] == ["setup.txt"]


def test_what_python_shows_of_data_and_models_is_a_few_lines(trained: Trained, dataset: wn.Dataset) -> None:
    recommender = wn.load(trained.folder / "agent.safetensors")
    for thing in (dataset, dataset.catalogue, trained.state, recommender, recommender.policy, recommender.policy.agent):
        told = repr(thing)
        assert told.count("\n") < 5
        assert len(told) < 500
    assert "60 users, 2,400 events" in repr(dataset)
    assert "danceability, energy, tempo, valence" in repr(dataset)
    assert "trained on 256 histories" in repr(recommender)
