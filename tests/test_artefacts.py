"""Models on disk come back the same, belong together, and are never left half written."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import what_next as wn
from what_next import Agent, Catalogue, Environment, LearnedPolicy, State
from what_next.data.files import finish, write_files
from what_next.errors import ModelError, SaveError
from what_next.training import checkpoint
from what_next.training.artefacts import FORMAT, KEY, catalogue_path, read_manifest, read_models, read_rest, resume_path

from .conftest import SetupOf, Trained, listening


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """The trained model in a folder of the test's own."""
    folder = tmp_path / "models"
    shutil.copytree(trained.folder, folder)
    paths = {"model_agent_path": folder / "agent.safetensors", "model_critic_path": folder / "critic.safetensors"}
    return Trained(folder, trained.setup.model_copy(update=paths), trained.state)


def ready(model: Trained) -> Agent:
    return Agent(model.setup, model.state.space).ready_agent()


def retrained(model: Trained, folder: Path) -> Trained:
    """Another run of the same settings."""
    paths = {"model_agent_path": folder / "agent.safetensors", "model_critic_path": folder / "critic.safetensors"}
    setup = model.setup.model_copy(update={**paths, "epochs": 32})
    Environment(Agent(setup, model.state.space), model.state, setup).run_sim()
    return Trained(folder, setup, model.state)


def with_metadata(path: Path, **changes: object) -> None:
    """Write the file anew with other values in its manifest."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    manifest = json.loads(metadata[KEY]) | changes
    save_file(tensors, path, {**metadata, KEY: json.dumps(manifest)})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestRoundTrip:
    def test_the_folder_holds_the_promised_files(self, trained: Trained) -> None:
        models = {"agent.safetensors", "critic.safetensors", "agent.resume.safetensors"}
        assert names(trained.folder) >= models | {"agent.catalogue.parquet", "agent.jsonl"}
        assert not any(name.startswith(".") or "tmp" in name for name in names(trained.folder))

    def test_weights_space_and_settings_come_back(self, trained: Trained) -> None:
        saved = read_models(trained.setup.model_agent_path, trained.setup.model_critic_path)
        space = trained.state.space
        assert np.array_equal(saved.space.catalogue.vectors, space.catalogue.vectors)
        assert saved.space.catalogue.titles.to_list() == space.catalogue.titles.to_list()
        assert (saved.space.tolerance, saved.space.typical) == (space.tolerance, space.typical)
        assert saved.space.event_names == ("reward", "time_of_day_sin", "time_of_day_cos")
        assert np.array_equal(saved.space.event_center, space.event_center)
        assert np.array_equal(saved.space.event_scale, space.event_scale)
        assert wn.Setup(**saved.manifest.setup) == trained.setup

    def test_the_actor_is_in_the_agents_file_and_the_critic_in_its_own(self, trained: Trained) -> None:
        owners = {}
        for path in (trained.setup.model_agent_path, trained.setup.model_critic_path):
            with safe_open(path, framework="pt") as file:
                owners[path.stem] = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118
        assert owners == {"agent": {"actor", "space"}, "critic": {"critic"}}

    def test_the_manifest_tells_what_was_measured_and_with_what(self, trained: Trained) -> None:
        manifest = read_manifest(trained.setup.model_agent_path)
        assert (manifest.format, manifest.package, manifest.role) == (FORMAT, wn.__version__, "agent")
        assert manifest.histories == 256
        assert manifest.catalogue == trained.state.dataset.catalogue.hash()
        assert manifest.metrics["valid"].keys() == {"spread@20", "users"}
        assert manifest.metrics["split"] == trained.state.split.hash
        assert manifest.made_with["torch"] == torch.__version__
        critic = read_manifest(trained.setup.model_critic_path)
        assert (critic.run, critic.histories, critic.role) == (manifest.run, 256, "critic")

    def test_ids_that_are_numbers_come_back_as_numbers(self, trained: Trained) -> None:
        old = trained.state.space.catalogue
        numbered = replace(old, ids=pl.Series(range(80)))
        assert Catalogue.from_table(numbered.to_table()).ids.to_list() == list(range(80))


class TestBelonging:
    def test_a_mixed_pair_is_refused(self, copied: Trained, tmp_path: Path) -> None:
        other = retrained(copied, tmp_path / "other")
        shutil.copy(other.folder / "critic.safetensors", copied.folder)
        with pytest.raises(ModelError, match=r"agent\.safetensors and .*critic\.safetensors do not belong together"):
            ready(copied)

    def test_swapped_paths_are_refused(self, copied: Trained) -> None:
        paths = {
            "model_agent_path": copied.setup.model_critic_path,
            "model_critic_path": copied.setup.model_agent_path,
        }
        with pytest.raises(ModelError, match="is a file of role 'critic', and 'agent' is asked for"):
            Agent(copied.setup.model_copy(update=paths), copied.state.space).ready_agent()

    def test_the_rest_of_another_run_is_refused(self, copied: Trained, tmp_path: Path) -> None:
        other = retrained(copied, tmp_path / "other")
        shutil.copy(resume_path(other.setup.model_agent_path), copied.folder)
        with pytest.raises(ModelError, match="belongs to another save"):
            read_rest(copied.setup.model_agent_path)

    def test_the_catalogue_of_another_model_is_refused(self, copied: Trained) -> None:
        path = catalogue_path(copied.setup.model_agent_path)
        pl.read_parquet(path).head(70).write_parquet(path)
        with pytest.raises(ModelError, match="is not the catalogue"):
            ready(copied)

    def test_networks_of_another_size_are_refused(self, copied: Trained) -> None:
        setup = read_manifest(copied.setup.model_agent_path).setup | {"dim": 8}
        with_metadata(copied.setup.model_agent_path, setup=setup)
        with pytest.raises(ModelError, match="'actor' is not the one that its setup describes"):
            ready(copied)


class TestDamage:
    @pytest.mark.parametrize("name", ["agent.safetensors", "critic.safetensors", "agent.catalogue.parquet"])
    @pytest.mark.parametrize("kept", [0, 5, 500, -1])
    def test_a_truncated_file_is_refused(self, copied: Trained, name: str, kept: int) -> None:
        path = copied.folder / name
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            ready(copied)

    @pytest.mark.parametrize("name", ["agent.safetensors", "critic.safetensors", "agent.catalogue.parquet"])
    def test_a_missing_file_is_refused(self, copied: Trained, name: str) -> None:
        (copied.folder / name).unlink()
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            ready(copied)

    @pytest.mark.parametrize("name", ["agent.safetensors", "critic.safetensors", "agent.catalogue.parquet"])
    def test_random_bytes_are_no_model(self, copied: Trained, name: str) -> None:
        (copied.folder / name).write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            ready(copied)

    def test_a_folder_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="is a folder, no model file"):
            read_models(tmp_path)

    def test_tensors_without_a_manifest_are_no_model(self, copied: Trained) -> None:
        save_file({"actor.weight": torch.zeros(3)}, copied.setup.model_agent_path)
        with pytest.raises(ModelError, match="no manifest of What Next"):
            ready(copied)

    def test_a_table_that_holds_no_items_is_no_catalogue(self, copied: Trained) -> None:
        pl.DataFrame({"a": [1, 2]}).write_parquet(catalogue_path(copied.setup.model_agent_path))
        with pytest.raises(ModelError, match=r"catalogue\.parquet"):
            ready(copied)

    def test_a_newer_format_is_refused(self, copied: Trained) -> None:
        with_metadata(copied.setup.model_agent_path, format=FORMAT + 1)
        with pytest.raises(ModelError, match=f"has format {FORMAT + 1}, and this version knows {FORMAT}; upgrade"):
            ready(copied)

    def test_a_manifest_of_a_later_version_says_which_one_to_install(self, copied: Trained) -> None:
        with_metadata(copied.setup.model_agent_path, package="9.1.0rc2", lineage=["a"])
        with pytest.raises(ModelError, match=r"saved by What Next\? 9\.1\.0rc2, .* install 9\.1\.0rc2"):
            ready(copied)

    @pytest.mark.parametrize(
        "text",
        [
            "not JSON",
            "[]",
            "17",
            '{"format": 1}',
            '{"format": 1, "role": "painter"}',
            "[" * 100_000,
            '{"format": 1, "setup": ' + '{"a": ' * 100_000 + "1" + "}" * 100_001,
        ],
        ids=lambda text: str(text)[:32],
    )
    def test_a_damaged_manifest_is_refused(self, copied: Trained, text: str) -> None:
        path = copied.setup.model_agent_path
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, {KEY: text})
        with pytest.raises(ModelError, match=r"agent\.safetensors: its manifest is damaged"):
            ready(copied)

    @pytest.mark.parametrize("what", ["torch", "polars"])
    def test_a_file_that_is_replaced_while_it_is_read_is_one_message(
        self, copied: Trained, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def replaced(*_: object, **__: object) -> None:
            if what == "torch":
                raise RuntimeError("file size <29692> is smaller than the required mapping size <38956>")
            raise pl.exceptions.PanicException("assertion failed: range.end as u64 <= self.size")

        monkeypatch.setattr("safetensors.safe_open" if what == "torch" else "polars.read_parquet", replaced)
        with pytest.raises(ModelError, match=r"(is damaged|was changed while it was read)"):
            ready(copied)

    def test_a_manifest_without_its_tensors_is_refused(self, copied: Trained) -> None:
        path = copied.setup.model_agent_path
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file({"actor.weight": torch.zeros(3)}, path, metadata)
        with pytest.raises(ModelError, match=r"agent\.safetensors: is damaged"):
            ready(copied)


class TestSaving:
    @pytest.mark.parametrize("size", [1000, 8_000])
    def test_a_full_disk_leaves_the_previous_model_intact_and_usable(self, copied: Trained, size: int) -> None:
        before = contents(copied.folder)
        assert len(before["agent.safetensors"]) > size
        agent = Agent(copied.setup, copied.state.space).wake_agent()
        with files_of_at_most(size), pytest.raises(SaveError, match="cannot be written"):
            checkpoint.save(agent, np.random.default_rng(0), "another")
        assert contents(copied.folder) == before
        assert ready(copied).histories == 256

    def test_a_path_below_a_regular_file_is_told(self, trained: Trained, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        paths = {
            "model_critic_path": tmp_path / "file" / "critic.safetensors",
            "model_agent_path": tmp_path / "a.safetensors",
        }
        agent = Agent(trained.setup.model_copy(update=paths), trained.state.space).wake_agent()
        with pytest.raises(SaveError, match=r"critic\.safetensors: cannot be written"):
            checkpoint.save(agent, np.random.default_rng(0), "run")
        assert names(tmp_path) == {"file"}

    def test_a_crash_while_writing_leaves_no_temporary_file(self, tmp_path: Path) -> None:
        def crash(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_files({tmp_path / "one": lambda file: file.write(b"1"), tmp_path / "two": crash})
        assert not names(tmp_path)

    @pytest.mark.parametrize("then", [None, b"newer"], ids=["read", "written"])
    @pytest.mark.parametrize("renamed", [0, 1, 2])
    def test_who_comes_next_finishes_the_renames_of_a_save_that_was_killed(
        self, tmp_path: Path, renamed: int, then: bytes | None
    ) -> None:
        paths = [tmp_path / name for name in ("one [*]", ".two", "three")]
        write_files(dict.fromkeys(paths, b"old"))
        if not (child := os.fork()):
            replace, kept = Path.replace, iter(range(renamed))
            kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            Path.replace = lambda one, to: kill() if next(kept, None) is None else replace(one, to)  # type: ignore[assignment, method-assign]
            write_files(dict.fromkeys(paths, b"new"))
        os.waitpid(child, 0)
        assert [path.read_bytes() for path in paths] == [b"new"] * renamed + [b"old"] * (3 - renamed)
        finish(tmp_path / "any") if then is None else write_files(dict.fromkeys(paths, then))
        assert [path.read_bytes() for path in paths] == [then or b"new"] * 3
        assert names(tmp_path) == {path.name for path in paths}

    def test_models_whose_save_was_broken_off_between_two_renames_are_whole(
        self, copied: Trained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = Agent(copied.setup, copied.state.space).wake_agent()
        agent.histories = 7
        before, replace = names(copied.folder), Path.replace

        def broken_off(path: Path, to: Path) -> Path:
            if to.name == "critic.safetensors":
                raise KeyboardInterrupt
            return replace(path, to)

        monkeypatch.setattr(Path, "replace", broken_off)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(agent, np.random.default_rng(0), "another")
        monkeypatch.undo()
        assert read_rest(copied.setup.model_agent_path)[0].histories == 7
        assert ready(copied).histories == 7
        assert names(copied.folder) == before

    def test_readers_and_a_writer_do_not_break_each_other(self, tmp_path: Path) -> None:
        paths = [tmp_path / str(number) for number in range(5)]
        with ThreadPoolExecutor(4) as pool:
            writing = pool.submit(lambda: [write_files(dict.fromkeys(paths, b"%d" % n)) for n in range(40)])
            reading = [pool.submit(lambda: [finish(paths[0]) for _ in iter(writing.done, True)]) for _ in range(3)]
            assert all(done.result() for done in (writing, *reading))
        assert [path.read_bytes() for path in paths] == [b"39"] * 5
        assert names(tmp_path) == {path.name for path in paths}

    @pytest.mark.parametrize(
        "text",
        [
            "no JSON",
            "17",
            "[17]",
            '["../.own.abc.aside"]',
            '[".a.abc.aside", "..abc.aside"]',
            '["....abc.aside"]',
            "[" * 9999,
        ],
        ids=lambda text: text[:20],
    )
    def test_a_journal_that_is_none_renames_nothing(self, tmp_path: Path, text: str) -> None:
        folder = tmp_path / "models"
        folder.mkdir()
        for path in (tmp_path / ".own.abc.aside", folder / ".a.abc.aside"):
            path.write_text("stays")
        (folder / ".x.names.aside").write_text(text)
        before = names(tmp_path)
        finish(folder / "a")
        assert names(tmp_path) == before

    def test_a_second_save_replaces_the_first(self, copied: Trained) -> None:
        before = names(copied.folder)
        agent = Agent(copied.setup, copied.state.space).wake_agent()
        agent.histories = 7
        checkpoint.save(agent, np.random.default_rng(0), "another")
        assert ready(copied).histories == 7
        assert read_manifest(copied.setup.model_critic_path).run == "another"
        assert names(copied.folder) == before

    def test_saving_needs_no_folder_beforehand(self, trained: Trained, tmp_path: Path) -> None:
        other = retrained(trained, tmp_path / "deep" / "folder")
        assert names(other.folder) == names(trained.folder)


class TestStartingFrom:
    def test_items_that_the_model_does_not_know_are_counted(
        self, trained: Trained, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        log, items = listening(items=90)
        setup = setup_of(tmp_path, epochs=32)
        state = State(wn.Dataset.from_frame(log, items), setup)
        assert state.new_items(trained.setup.model_agent_path) == 10
        space = state.space_under(trained.setup.model_agent_path)
        assert np.array_equal(space.catalogue.scale, trained.state.space.catalogue.scale)
        grown = State(state.dataset, setup, space)
        origin = trained.setup.model_agent_path
        report = Environment(Agent(setup, space), grown, setup, origin=origin).run_sim()
        assert report.histories == 32
        assert len(wn.load(setup.model_agent_path).catalogue) == 90

    def test_training_starts_at_the_weights_of_the_other(
        self, trained: Trained, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        agent = Agent(setup_of(tmp_path), trained.state.space).wake_agent()
        checkpoint.start_from(agent, trained.setup.model_agent_path)
        for name, net in ready(trained).nets.items():
            theirs, mine = net.state_dict(), agent.nets[name].state_dict()
            assert all(torch.equal(theirs[key], mine[key]) for key in theirs)
        assert agent.histories == 0

    def test_a_tolerance_in_the_setup_goes_before_the_models(
        self, trained: Trained, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        state = State(trained.state.dataset, setup_of(tmp_path, tolerance=0.7))
        assert state.space_under(trained.setup.model_agent_path).tolerance == 0.7

    def test_another_number_of_prototypes_is_taken_over(
        self, trained: Trained, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        agent = Agent(setup_of(tmp_path, algorithm={"prototypes": 8}), trained.state.space).wake_agent()
        checkpoint.start_from(agent, trained.setup.model_agent_path)
        assert len(agent.nets["actor"].prototypes) == len(ready(trained).nets["actor"].prototypes)

    def test_a_run_that_started_from_a_model_goes_on_in_the_same_space(
        self, trained: Trained, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        log, items = listening(items=90)
        setup = setup_of(tmp_path, epochs=32)
        state = State(wn.Dataset.from_frame(log, items), setup)
        origin = trained.setup.model_agent_path
        grown = State(state.dataset, setup, state.space_under(origin))
        Environment(Agent(setup, grown.space), grown, setup, origin=origin).run_sim()
        longer = setup_of(tmp_path, epochs=64)
        with pytest.raises(ModelError, match="in another space"):
            Environment(Agent(longer, state.space), state, longer, resume=True).run_sim()
        kept = read_models(setup.model_agent_path).space
        again = State(state.dataset, longer, replace(kept, seen=state.space.seen))
        assert Environment(Agent(longer, again.space), again, longer, resume=True).run_sim().histories == 64
        assert np.array_equal(read_models(setup.model_agent_path).space.catalogue.center, kept.catalogue.center)

    def test_other_attributes_are_refused(self, trained: Trained, setup_of: SetupOf, tmp_path: Path) -> None:
        log, items = listening()
        state = State(wn.Dataset.from_frame(log, items.drop("tempo")), setup_of(tmp_path))
        with pytest.raises(ModelError, match="was trained on attributes danceability, energy, tempo, valence"):
            state.space_under(trained.setup.model_agent_path)


class TestOthersFiles:
    """Whoever made a file by hand, or damaged it, gets one message."""

    @pytest.mark.parametrize("setup", [{}, {"algorithm": "whatnext"}, {"algorithm": {"name": 1}}])
    def test_a_manifest_without_an_algorithm(self, copied: Trained, setup: dict[str, object]) -> None:
        with_metadata(copied.setup.model_agent_path, setup=setup)
        with pytest.raises(ModelError, match="its manifest is damaged"):
            wn.load(copied.setup.model_agent_path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("space.center", torch.zeros(3, 7)),
            ("space.event_scale", torch.zeros(1)),
            ("space.scale", torch.ones(4, dtype=torch.bfloat16)),
            ("space.event_center", torch.full((1,), torch.nan)),
        ],
    )
    def test_a_scaling_that_is_none(self, copied: Trained, name: str, value: torch.Tensor) -> None:
        path = copied.setup.model_agent_path
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {one: file.get_tensor(one) for one in file.keys()}  # noqa: SIM118
        save_file({**tensors, name: value}, path, metadata)
        with pytest.raises(ModelError, match=r"is damaged, its (tensor|scaling)"):
            wn.load(path)


def test_what_is_given_beside_a_setup_holds(trained: Trained) -> None:
    setup = trained.setup.model_copy(update={"model_critic_path": None})
    assert LearnedPolicy.load(setup).agent.setup.model_critic_path is None
    loaded = LearnedPolicy.load(setup, critic=trained.setup.model_critic_path).agent
    assert loaded.setup.model_critic_path == trained.setup.model_critic_path
    assert "critic" in loaded.nets
    with pytest.raises(TypeError, match="a setup holds its algorithm"):
        LearnedPolicy.load(setup, algorithm=type(setup.algorithm))
