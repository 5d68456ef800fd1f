"""How long the model takes for what it is asked, learned while it answers."""

MEMORY = 0.9
"""What an earlier batch weighs beside the next one."""
FIRST = 1e-3
"""Seconds of one unit of cost, before anything was measured: so that a start under load does not take in too much."""


class Pace:
    """Seconds of a batch as a straight line over its cost: `fixed + each * cost`.

    By least squares with exponentially falling weights. What a batch takes whatever is in it (`fixed`) tells how much
    is gained by answering more together; a mean of seconds by cost would take a batch of one for the measure of all.
    One thread measures; any may ask.
    """

    def __init__(self) -> None:
        self.fixed, self.each = 0.0, FIRST
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def measured(self, cost: float, seconds: float) -> None:
        """A batch of this cost took so long."""
        new = (1.0, cost, seconds, cost * cost, cost * seconds)
        weight, costs, times, squares, products = (MEMORY * old + one for old, one in zip(self._sums, new, strict=True))
        self._sums = (weight, costs, times, squares, products)
        spread = squares - costs * costs / weight
        each = (products - costs * times / weight) / spread if spread > 1e-6 * squares else times / costs
        # Neither part is below 0; where all batches cost about the same, all is laid on the cost.
        each = min(max(each, 0.0), times / costs)
        self.fixed, self.each = max(times / weight - each * costs / weight, 0.0), each

    def batch(self, cost: float) -> float:
        """Seconds of one batch of this cost."""
        return self.fixed + self.each * cost
