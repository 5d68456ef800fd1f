"""The networks: an encoder of histories, and what reads its states."""

from what_next.models.actor_critic import AgentModel, CriticModel, spread_out

__all__ = ["AgentModel", "CriticModel", "spread_out"]
