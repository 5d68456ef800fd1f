"""Losses of reinforcement learning, as pure functions of per-step numbers. The mean of no steps is 0."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Steps = Float[Tensor, "steps"]
Grid = Float[Tensor, "time batch"]
Loss = Float[Tensor, ""]


def mean(losses: Steps, weights: Steps | None = None) -> Loss:
    """The mean over steps of weight times loss; divided by the number of steps, not by the weights. 0 without steps."""
    total = losses.sum() if weights is None else torch.dot(losses, weights)
    return total / max(len(losses), 1)


def td_target(rewards: Steps, discounts: Steps, next_values: Steps) -> Steps:
    """reward + discount * value of the next state, without gradient (Sutton and Barto 2018, equation 6.2).

    With n-step rewards and discounts ** n it is the n-step return (their equation 7.1).
    """
    return (rewards + discounts * next_values).detach()


def td_loss(values: Steps, targets: Steps) -> Loss:
    """The mean of (value - target)² / 2. Targets have no gradient."""
    return mean((values - targets.detach()).square() / 2)


def gae(rewards: Grid, values: Grid, next_values: Grid, discounts: Grid, traces: Grid) -> Grid:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16), in one backward pass; no gradient.

    A_t = delta_t + discount_t trace_t A_(t+1), with delta_t = r_t + discount_t V(s_(t+1)) - V(s_t).

    Args:
        next_values: values of the next states, also where another episode begins after them.
        discounts: of `next_values`; 0 where the episode terminates.
        traces: lambda; 0 where an episode ends or is truncated, because the next row belongs to another episode.
    """
    found = torch.empty_like(rewards)
    deltas, decays = rewards + discounts * next_values - values, discounts * traces
    ahead = torch.zeros_like(rewards[0])
    for step in range(len(rewards) - 1, -1, -1):
        ahead = deltas[step] + decays[step] * ahead
        found[step] = ahead
    return found.detach()


def clipped_surrogate(ratios: Steps, advantages: Steps, clip: float) -> Loss:
    """The mean of -min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A) (PPO: Schulman et al. 2017, equation 7)."""
    assert 0 < clip < 1, f"a clip lies between 0 and 1, not at {clip}"
    weighted = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    return -mean(weighted)


def plackett_luce(
    scores: Float[Tensor, "steps items"],
    slates: Int64[Tensor, "steps slots"],
    weights: Steps | None = None,
    traits: Float[Tensor, "items traits"] | None = None,
) -> tuple[Steps, Steps]:
    """The log probability of slates drawn slot by slot without replacement (Plackett 1975), and the mean entropy.

    In each slot an item is drawn from the softmax of the scores of the items that are left. With `traits`, every score
    then falls by the weight times `<traits, traits of the drawn item>`. Slots of -1 do not count.

    Returns:
        The log probability of each slate, and the mean over its slots of the entropy of each draw.
    """
    total, entropy = scores.new_zeros(len(scores)), scores.new_zeros(len(scores))
    taken = torch.zeros_like(scores, dtype=torch.bool)
    for slot in range(slates.shape[1]):
        items, there = slates[:, slot, None].clamp(min=0), slates[:, slot] >= 0
        logs = scores.masked_fill(taken, -torch.inf).log_softmax(1)
        total = total + torch.where(there, logs.gather(1, items)[:, 0], 0.0)
        entropy = entropy - torch.where(there, (logs.exp() * logs.masked_fill(taken, 0.0)).sum(1), 0.0)
        taken = taken.scatter(1, items, there[:, None] | taken.gather(1, items))
        if traits is not None and weights is not None:
            scores = scores - (weights * there)[:, None] * (traits[items[:, 0]] @ traits.T)
    return total, entropy / (slates >= 0).sum(1).clamp(min=1)


def expectile_loss(values: Steps, targets: Steps, expectile: float = 0.7) -> Loss:
    """The mean of |expectile - 1(u < 0)| u² with u = target - value (IQL: Kostrikov et al. 2021, equations 4 and 5).

    In IQL the target is Q(s, a) and the value V(s). With 0.5 it is half the squared error; towards 1, the value rises
    towards the largest target. Targets have no gradient.
    """
    assert 0 < expectile < 1, f"an expectile lies between 0 and 1, not at {expectile}"
    errors = targets.detach() - values
    return mean(torch.where(errors < 0, 1 - expectile, expectile) * errors.square())


def topk_correction(log_probs: Steps, slots: int) -> Steps:
    """K (1 - pi(a | s))^(K - 1), without gradient (Chen et al. 2019, "Top-K Off-Policy Correction for a REINFORCE
    Recommender System", equations 7 and 8).

    It multiplies the policy's gradient: if an item is already likely to be in a slate of K, its probability need not
    grow further. For K = 1 it is 1.
    """
    assert slots >= 1, f"a slate has at least one slot, not {slots}"
    # 1 - pi, exact for the smallest probabilities; rounding may leave a log above 0.
    others = -torch.expm1(log_probs.detach().clamp(max=0))
    return slots * others ** (slots - 1)


def importance_weights(log_policy: Steps, log_behaviour: Steps, cap: float) -> Steps:
    """min(pi(a | s) / beta(a | s), cap), without gradient (Chen et al. 2019, section 4.4, weight capping)."""
    assert cap > 0, f"a cap is positive, not {cap}"
    return (log_policy - log_behaviour).detach().exp().clamp(max=cap)


def self_normalised(weights: Steps, mean: Loss | None = None) -> Steps:
    """Weights over their mean, or over the mean of a larger batch (Swaminathan and Joachims 2015, "The Self-Normalized
    Estimator for Counterfactual Learning", equation 9): the weighted mean of equal rewards is then that reward,
    whatever was drawn. 0 if all weights are 0.
    """
    if not len(weights):
        return weights
    return weights / (weights.mean() if mean is None else mean).clamp(min=torch.finfo(weights.dtype).tiny)


def advantage_weights(advantages: Steps, temperature: float = 1.0, cap: float = 20.0) -> Steps:
    """min(exp(A / temperature), cap), without gradient: weights of a cross entropy towards the log's better actions.

    CRR (Wang et al. 2020, equation 4, capped at 20); AWR (Peng et al. 2019); IQL's equation 7, whose beta is
    1 / temperature.
    """
    assert temperature > 0 < cap, "temperature and cap are positive"
    return (advantages.detach() / temperature).exp().clamp(max=cap)
