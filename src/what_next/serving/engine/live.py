"""What answers now: the deployed version, and the second one beside it."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from what_next.errors import ModelError
from what_next.serving.engine.active import Active
from what_next.serving.engine.versions import check, folder_of, versions_folder
from what_next.serving.store import Deployment, Second, Store
from what_next.settings import Setup

Role = Literal["current", "canary"]


@dataclass(frozen=True, eq=False)
class Live:
    """What a batch of questions is answered by; it holds on to it until its end, whatever is deployed meanwhile.

    Attributes:
        deployment: how the current version came; `current`: that version.
        candidate: the second one, for canary or shadow; `second`: how it is asked.
        refused: the version that could not be loaded, and why; None: there is none.
        unfit: the second one's file or version that could not be loaded, and why; None: it could, or there is none.
    """

    deployment: Deployment
    current: Active
    candidate: Active | None
    refused: tuple[str, str] | None = None
    unfit: tuple[str, str] | None = None
    second: Second | None = None

    def role(self, user: str | None) -> Role:
        """Which of the two answers a user: the second one for a share of them, always the same ones."""
        second = self.second
        if self.candidate is None or second is None or user is None or point(second.salt + user) >= second.share:
            return "current"
        return "canary"

    def of(self, role: Role) -> Active:
        """Who answers for a role."""
        return self.current if role == "current" or self.candidate is None else self.candidate

    @property
    def shadow(self) -> bool:
        """Whether the second version is asked, unseen, what the current one answers."""
        return self.candidate is not None and self.second is not None and self.second.shadow

    def describe(self, setup: Setup) -> dict[str, Any]:
        """The deployed version, what it was trained as, and what stands beside it, as plain values."""
        served, settings, candidate = self.current.served, setup.server, self.candidate
        manifest = served.manifest
        second = None if candidate is None else candidate.served.version
        share = self.second.share if self.second else 0.0
        return {
            "version": served.version,
            "run": manifest.run,
            "algorithm": manifest.setup["algorithm"]["name"],
            "encoder": manifest.setup["model"],
            "trained_on": manifest.histories,
            "items": len(served.ids),
            "left_out": len(served.left_out),
            "withdrawn": len(self.current.withdrawn[1]),
            "attributes": list(served.catalogue.names),
            "metrics": manifest.metrics,
            "search": settings.search,
            "critic": served.policy.agent.setup.model_critic_path is not None,
            "deployed": {
                "number": self.deployment.number,
                "kind": self.deployment.kind,
                "time": datetime.fromtimestamp(self.deployment.time / 1e6, UTC).isoformat().replace("+00:00", "Z"),
            },
            "canary": {"version": second, "share": share} if second and share else None,
            "shadow": {"version": second} if self.shadow else None,
            "unfit": None if self.unfit is None else {"version": self.unfit[0], "reason": self.unfit[1]},
            "refused": None if self.refused is None else {"version": self.refused[0], "reason": self.refused[1]},
        }


def point(user: str) -> float:
    """Where a user stands between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") / 2**64


def check_models(setup: Setup, store: Store) -> None:
    """Raises a `ModelError` where the engine of a setup cannot begin: its model is unfit, or the second one missing."""
    if not store.deployments():
        check(setup.model_agent_path)
    if setup.server.candidate is not None:
        check_second(setup.server.candidate)
    if setup.server.tried is not None and not folder_of(folder := versions_folder(setup), setup.server.tried).is_dir():
        raise ModelError(
            f"{setup.server.tried}: no such version in {folder}, and server.experiment names it; name one that was "
            "deployed (GET /v1/model tells the current one's), or trained, popular, random or candidate"
        )


def check_second(agent: Path) -> None:
    """Raises a `ModelError` where the second model is missing: a mistake in the setup."""
    if not agent.is_file():
        raise ModelError(f"{agent}: no such model file, and server.candidate names it; train it, or leave that out")
