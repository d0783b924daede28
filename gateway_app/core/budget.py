"""How many second attempts there may be: a part of the requests, so that a sick fleet is not asked twice as much."""

from __future__ import annotations

from collections import deque

SECONDS = 10
# In a quiet hour a part of the requests would be less than one.
MINIMUM = 50


class RetryBudget:
    """Second attempts of the last ten seconds against the requests in them. `roll()` is to be called once a second."""

    __slots__ = ("_past", "requests", "spent")

    def __init__(self) -> None:
        self.requests = 0  # both of the current second
        self.spent = 0
        self._past: deque[tuple[int, int]] = deque(maxlen=SECONDS - 1)

    def withdraw(self, ratio: float, *, spare: bool = False) -> bool:
        """Whether one more second attempt may be made, which is then counted. With a ratio of 0, none may.

        `spare`: only of the first half of what may be, so that enough is left for those who need it more.
        """
        allowed, spent = self.account(ratio)
        if not ratio or (spent >= allowed / 2 if spare else spent + 1 > allowed):
            return False
        self.spent += 1
        return True

    def spend(self) -> None:
        """Counts a second attempt that is made in any case."""
        self.spent += 1

    def roll(self) -> None:
        """Ends the current second."""
        self._past.append((self.requests, self.spent))
        self.requests = self.spent = 0

    def account(self, ratio: float) -> tuple[float, int]:
        """How many second attempts there may be in ten seconds, and how many there were."""
        requests, spent = map(sum, zip(*self._past, (self.requests, self.spent), strict=True))
        return max(MINIMUM, ratio * requests), spent
