"""How long a worker takes, tracked at the price of two multiplications per answer."""

from __future__ import annotations

# So many durations make the estimates worth something.
ENOUGH = 20


class Pace:
    """Running estimates of the median and the 99th percentile of durations, in seconds.

    Each duration moves an estimate up or down by a fixed part, in the proportion that balances at the quantile
    (stochastic approximation, Robbins and Monro 1951; on a logarithmic scale, so that any unit fits). They forget:
    about 50 durations after a change the median has followed it.
    """

    __slots__ = ("count", "median", "p99")

    def __init__(self) -> None:
        self.count = 0
        self.median = 0.0
        self.p99 = 0.0

    def add(self, duration_s: float) -> None:
        """Takes one duration into account."""
        self.count += 1
        if self.count == 1:
            self.median = self.p99 = duration_s or 1e-6  # from 0 they would never rise
            return
        step = 0.05 if self.count >= ENOUGH else 1 / self.count  # larger at first: the first duration may be an odd one
        self.median *= 1 + step if duration_s > self.median else 1 - step
        # The first durations of a process may be its longest: quickly down from them.
        self.p99 *= 1.099 if duration_s > self.p99 else 0.999 if self.known else 0.8

    @property
    def known(self) -> bool:
        """Whether there were enough durations to rely on."""
        return self.count >= ENOUGH
