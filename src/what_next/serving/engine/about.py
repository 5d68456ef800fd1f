"""What answers, as plain values."""

from datetime import UTC, datetime
from typing import Any

from what_next.serving.engine.live import Live
from what_next.settings import Setup


def about(setup: Setup, live: Live) -> dict[str, Any]:
    """The deployed version, what it was trained as, and what stands beside it."""
    served, settings, candidate = live.current.served, setup.server, live.candidate
    manifest = served.manifest
    second = None if candidate is None else candidate.served.version
    return {
        "version": served.version,
        "run": manifest.run,
        "algorithm": manifest.setup["algorithm"]["name"],
        "encoder": manifest.setup["model"],
        "trained_on": manifest.histories,
        "items": len(served.ids),
        "left_out": len(served.left_out),
        "withdrawn": len(live.current.withdrawn[1]),
        "attributes": list(served.catalogue.names),
        "metrics": manifest.metrics,
        "search": settings.search,
        "critic": served.policy.agent.setup.model_critic_path is not None,
        "deployed": {
            "number": live.deployment.number,
            "kind": live.deployment.kind,
            "time": datetime.fromtimestamp(live.deployment.time / 1e6, UTC).isoformat().replace("+00:00", "Z"),
        },
        "canary": {"version": second, "share": settings.canary} if second and settings.canary else None,
        "shadow": {"version": second} if second and settings.shadow else None,
        "unfit": None if live.unfit is None else {"version": live.unfit[0], "reason": live.unfit[1]},
        "refused": None if live.refused is None else {"version": live.refused[0], "reason": live.refused[1]},
    }
