"""Values passed between State, Agent and Environment. Axes: batch, time, slots, choices, items, dim (see the design).

Everything here is frozen: a step of the loop makes new values and changes none.
"""

from what_next.types.batches import *  # noqa: F403
from what_next.types.histories import *  # noqa: F403
from what_next.types.requests import *  # noqa: F403
