"""A log that every estimator can read, one that knows nothing of the policy, and short ways to judge them."""

from dataclasses import replace

import numpy as np

from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.estimate import PLAIN, Judged, estimate
from what_next.off_policy.estimate import difference as difference_of

from .bandits import bandit

WORLD = bandit()
LOG, TARGET, BEHAVIOUR = WORLD.draw(400, seed=0)
WEIGHTS = TARGET.chances / LOG.propensities
ONE_STEP = ["ips", "clipped_ips", "snips", "dm", "dr", "switch_dr", "mips"]
SEQUENCES = ["per_decision_is", "weighted_per_decision_is", "sequence_dr", "fqe"]


def told(decisions=LOG, target=TARGET, *, options=PLAIN, resamples=100, **more):
    return estimate(decisions, target, replace(options, resamples=resamples, **more))


def difference(decisions, target, other, options=PLAIN):
    return difference_of(*(Judged.of(decisions, one, options) for one in (target, other)))


def means(result):
    return {name: one["mean"] for name, one in result["estimates"].items()}


def plain(actions, rewards, propensities, items, **more):
    """A log whose decisions are independent."""
    return Decisions(np.arange(len(actions)), actions, rewards, propensities, np.eye(items), **more)


def apart(rows=2000):
    """A log of the first two of four items, and a policy that shows the two others alone."""
    actions = np.arange(rows) % 2
    log = plain(actions, np.ones(rows), np.full(rows, 0.5), 4, contexts=np.ones((rows, 1)))
    full = np.tile([0.0, 0.0, 0.5, 0.5], (rows, 1))
    return log, Target(full[:, 0].copy(), full, full), np.array([[0.5, 0.5, 0.0, 0.0]])
