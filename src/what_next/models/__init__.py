"""The networks: encoders of histories, and heads that read their states."""

from what_next.models.actor_critic import AgentModel, CriticModel, spread_out

__all__ = ["AgentModel", "CriticModel", "spread_out"]
