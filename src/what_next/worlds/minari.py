"""Minari data sets (a format for offline RL): writes the play in a world as one, and reads one as a log.

write("boredom/greedy-v0", WorldVectorEnv(500), policy)         # needs minari and pyarrow
log_of(minari.load_dataset("boredom/greedy-v0")).write_parquet("shown.parquet")
"""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from what_next.errors import DataError, MissingExtraError
from what_next.worlds.base import Reference
from what_next.worlds.gym import WorldEnv, WorldVectorEnv, row_of

try:
    import minari
except ModuleNotFoundError:
    raise MissingExtraError("minari", "sim", "A data set of Minari") from None

from gymnasium.vector import AutoresetMode
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage.datasets_root_dir import get_dataset_path


def write(identity: str, envs: WorldVectorEnv, policy: Reference, *, seed: int = 0, **told: Any) -> Any:
    """Play one episode in each environment, and write all as a Minari data set.

    Args:
        identity: the id of the data set, such as `boredom/greedy-v0`.
        envs: the users; the data set has as many episodes.
        policy: chooses the slates.
        seed: of the first user, as for `WorldVectorEnv.reset`, and of the policy's draws.
        told: other metadata for Minari: `description`, `author`, `algorithm_name`, ...

    Returns:
        The `minari.MinariDataset`.

    Raises:
        DataError: Minari does not accept the id, or has it already; or ended users of `envs` are not reset.
    """
    _check(identity, envs)
    single = WorldEnv(envs.world, ideal=envs.ideal)
    settings = envs.world.model_dump(exclude={"name"})
    return minari.create_dataset_from_buffers(
        identity,
        played(envs, policy, seed),
        action_space=single.action_space,
        observation_space=single.observation_space,
        data_format="arrow",
        **{"description": f"World {envs.world.name} of What Next? with the settings {settings}.", **told},
    )


def _check(identity: str, envs: WorldVectorEnv) -> None:
    """Raises a `DataError` before the play where its result could not be stored, or users would not be reset."""
    if envs.mode is AutoresetMode.DISABLED:
        raise DataError("autoreset_mode is Disabled, and users end at different times; take NextStep or SameStep")
    try:
        parse_dataset_id(identity)
    except ValueError as error:
        raise DataError(f"{error}") from None
    if get_dataset_path(identity).exists():
        raise DataError(f"{identity}: Minari has it already; take another name or version, or minari.delete_dataset")


def played(envs: WorldVectorEnv, policy: Reference, seed: int) -> list[Any]:
    """One episode in each environment as Minari's buffers, with one observation more than actions."""
    rng, (seen, _) = np.random.default_rng(seed), envs.reset(seed=seed)
    episodes = [EpisodeBuffer(row, seed + row, None, [row_of(seen, row)], []) for row in range(envs.num_envs)]
    going = np.ones(envs.num_envs, np.bool_)
    while going.any():
        slates = policy(envs.state, rng)
        seen, rewards, terminated, truncated, infos = envs.step(slates)
        for row in np.flatnonzero(going).tolist():
            last = infos["final_obs"][row] if "final_obs" in infos and infos["_final_obs"][row] else row_of(seen, row)
            one = episodes[row]
            one.observations.append(last)
            one.actions.append(slates[row])
            one.rewards.append(float(rewards[row]))
            one.terminations.append(bool(terminated[row]))
            one.truncations.append(bool(truncated[row]))
        going &= ~(terminated | truncated)
    return [_columns(one) for one in episodes]


def log_of(dataset: Any) -> pl.DataFrame:
    """A data set of slates as a log with one row for each shown item.

    Its columns are `user_id` (the episode), `timestamp` (the step, in seconds), `slate`, `position`, `item_id` and
    `reward`: 1 for a click. `what-next data import` and readers of decision logs accept it; a Minari data set has no
    propensities.

    Args:
        dataset: a `minari.MinariDataset` whose actions are slates and whose observations hold the `clicks` of the last
            slate, as in our worlds and SARDINE; or whose slates have one item, which gets the step's reward.

    Raises:
        DataError: actions are not slates, or clicks are unknown.
    """
    parts, slates = [], 0
    for episode in dataset.iterate_episodes():
        actions = np.asarray(episode.actions)
        actions = actions[:, None] if actions.ndim == 1 else actions
        if actions.ndim != 2 or not np.issubdtype(actions.dtype, np.integer):
            raise DataError(f"{dataset.id}: its actions are {actions.dtype} of shape {actions.shape}, and no slates")
        steps, width = actions.shape
        parts.append(
            {
                "user_id": np.full(steps * width, episode.id),
                "timestamp": np.repeat(np.arange(steps), width),
                "slate": np.repeat(np.arange(slates, slates + steps), width),
                "position": np.tile(np.arange(width), steps),
                "item_id": actions.ravel(),
                "reward": _earned(dataset, episode, width).ravel(),
            }
        )
        slates += steps
    return pl.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _earned(dataset: Any, episode: Any, width: int) -> np.ndarray:
    """The reward of each item of each slate."""
    if isinstance(episode.observations, dict) and "clicks" in episode.observations:
        return np.asarray(episode.observations["clicks"], np.float64)[1:]
    if width == 1:
        return np.asarray(episode.rewards, np.float64)[:, None]
    raise DataError(
        f"{dataset.id}: slates of {width} items, and observations without `clicks`: which item was clicked is not told"
    )


def _columns(episode: Any) -> Any:
    """A buffer with an array for each part of the observations, as Minari stores them."""
    seen = episode.observations
    names = seen[0].keys() if isinstance(seen[0], dict) else ()
    parts = {name: np.stack([one[name] for one in seen]) for name in names} or np.stack(seen)
    return replace(episode, observations=parts, actions=np.stack(episode.actions))
