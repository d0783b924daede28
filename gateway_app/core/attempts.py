"""The attempts of a call: how each ends, when there is a second one, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gateway_app.core import refusals
from gateway_app.core.breaker import Cause, State
from gateway_app.core.call import Call, Route
from gateway_app.core.suspects import Verdict
from gateway_app.core.watch import MAX_ATTEMPTS
from inference_site.lib.errors import ApiError

if TYPE_CHECKING:
    from gateway_app.core.router import Router

# A larger input is not sent a second time.
REPLAY_BYTES = 4 * 2**20


class Attempts:
    """Ends the attempts of a router's calls, and begins others within the budget."""

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self._router = router
        self._clock = clock

    def failed(self, call: Call, reason: str, cause: Cause = Cause.FAILURES) -> None:
        """Its worker is at fault."""
        call.route.failures += 1
        call.route.breaker.failure(call.permit, reason, cause)
        self.retry(call, reason)

    def gone(self, call: Call) -> None:
        """The worker does not have the model under that number any more: nothing was done."""
        route = call.route
        route.breaker.release(call.permit)
        (call.first or call).attempts -= 1
        again = route.up and route.number != call.number  # it has it under another one
        if not again:
            route.up = False
        self.retry(call, "has unloaded the model", nothing_done=True, again=again)

    def asks_another(self, call: Call, status: int, payload: bytes) -> bool:
        """A model that fails on an input and not on others: whether another worker is heard about who is to blame."""
        first, beside = call.first or call, call.first or call.hedge
        if first.blamed_by is not None:
            return False
        asked = beside is not None and beside.flying
        if not asked and (first.attempts >= MAX_ATTEMPTS or self.other(call) is None or not self.may_repeat(call)):
            return False
        call.route.breaker.release(call.permit)
        self._router.quarantine.free(call)
        if call.trace is not None:
            call.trace.blamed("its model failed on this input")
        first.blamed_by, first.refusal = call.route, (status, payload)
        self.retry(call, "its model failed on this input", paid=True)
        return True

    def retry(
        self, call: Call, reason: str, *, nothing_done: bool = False, paid: bool = False, again: bool = False
    ) -> None:
        """What is done with a call that a worker did not answer; `again`: that worker may be asked once more."""
        first, route = call.first or call, call.route
        if not again:
            first.tried += (route,)
        if any(each is not None and each.flying for each in (first, first.hedge)):
            return  # the other attempt goes on
        call = first
        if self._clock() >= call.deadline:
            self.time_out(call)
        elif call.attempts >= MAX_ATTEMPTS:
            self._refuse_failed(call, reason)
        elif nothing_done or paid or self.may_repeat(call):
            self._router.retries += not nothing_done
            route.retried += not nothing_done
            self._router.dispatch(call, self._clock())
        else:
            self._refuse_failed(call, reason)

    def pass_on(self, call: Call, reason: str) -> bool:
        """Gives a call to another worker, if that may be; else it goes on waiting."""
        if (call.first or call).attempts >= MAX_ATTEMPTS or self.other(call) is None or not self.may_repeat(call):
            return False
        self.withdraw(call, outcome="failed", reason=reason)
        self.retry(call, reason, paid=True)
        return True

    def other(self, call: Call) -> Route | None:
        """The first owner that could take a call at once, besides those who have it or had it."""
        tried = (*(call.first or call).tried, call.route)
        for name in self._router.ring.owners(call.key):
            route = self._router.routes[name]
            if route.routable and route.in_flight < route.limit and route not in tried:
                return route
        return None

    def may_repeat(self, call: Call, *, spare: bool = False) -> bool:
        """Whether a second worker may get what a first one was sent; `spare`: though the first one may yet answer."""
        if len(call.payload) > REPLAY_BYTES:
            return False
        if call.suspect:  # as many as were in flight on a worker that was lost, one at a time: no storm
            self._router.budget.spend()
            return True
        if self._router.budget.withdraw(self._router.policy.retry_ratio, spare=spare):
            return True
        self._router.budget_exhausted += not spare
        return False

    def expire(self, calls: Iterable[Call]) -> None:
        """Ends those whose time has passed: for a link that is being retired, at which `tick` does not look."""
        now = self._clock()
        for call in [call for call in calls if now >= call.deadline]:
            if call.flying:
                self.withdraw(call)
                self.time_out(call)

    def withdraw(
        self, call: Call, *, failed: bool = False, outcome: str = "expired", reason: str = "no answer in time"
    ) -> None:
        """Takes a call back from its worker; a late answer is dropped. `outcome` and `reason`: see Trail."""
        route = call.route
        route.in_flight -= 1
        call.flying = False
        call.link.withdraw(call)
        if call.trace is not None:
            call.trace.ended(call, outcome, reason)
        if failed:
            route.failures += 1
            route.breaker.failure(call.permit, "no answer in time")
        else:
            route.breaker.release(call.permit)
        self._router.quarantine.free(call)

    def take_back(self, call: Call) -> bool:
        """Takes back all that is under way for a call, which is over; whether anything was."""
        waited = self._router.quarantine.leave(call)
        flying = [each for each in (call, call.hedge) if each is not None and each.flying]
        for each in flying:
            self.withdraw(each)
        call.hedge = None
        return waited or bool(flying)

    def settled(self, call: Call) -> None:
        """A call that was more than one attempt, or watched, has its answer."""
        if call.suspect:
            self._router.suspects.answered(call.key)
            self._router.quarantine.free(call)
        other = call.first or call.hedge
        if other is not None and other.flying:
            if other is call.first:  # it takes longer than this: else a slow worker would never look slow
                other.route.pace.add(self._clock() - other.sent_at)
            self.withdraw(other, outcome="hedged", reason=f"{call.route.name} was quicker")
        self._router.hedge_wins += call.first is not None
        # Here and wherever a call ends: the two would keep each other, and their input, until the garbage is collected.
        (call.first or call).hedge = None

    def time_out(self, call: Call) -> None:
        """Its deadline has passed."""
        call = call.first or call
        self.take_back(call)
        self._router.expired += 1
        call.on_error(self._too_late(call))

    def give_up(self, call: Call) -> None:
        """No worker can take it: says which of the reasons there are for that it is."""
        routes = self._router.routes.values()
        if call.attempts:
            self._refuse_failed(call, call.tried[-1].breaker.last_error or "no answer")
        elif not routes:
            call.on_error(refusals.no_workers())
        elif any(route.up and route.breaker.state is not State.OPEN for route in routes):
            self._router.shed += 1
            in_time = call.busy_us / 1e6 < call.deadline - self._clock()
            call.on_error(refusals.overloaded(call) if in_time else self._too_late(call))
        else:
            call.on_error(refusals.no_worker_available(routes))

    def is_refused(self, call: Call) -> bool:
        """Looks at what is known of a call's input by now; whether it has been answered with a refusal."""
        verdict = self._router.quarantine.judge(call)
        call.suspect = verdict is not Verdict.CLEAR and not call.released
        if verdict not in (Verdict.PENDING, Verdict.GUILTY):
            return False
        self._router.suspects_refused += 1
        call.hedge = None
        call.on_error(refusals.ends_workers() if verdict is Verdict.GUILTY else refusals.under_suspicion())
        return True

    def _refuse_failed(self, call: Call, reason: str) -> None:
        if call.suspect and self.is_refused(call):
            return
        call.hedge = None
        if call.blamed_by is not None and call.refusal is not None:  # nobody has said otherwise
            call.route = call.blamed_by
            call.on_refusal(*call.refusal)
        else:
            call.on_error(refusals.failed(call, reason))

    def _too_late(self, call: Call) -> ApiError:
        return refusals.too_late(call.timeout_s or self._router.policy.timeout_s)
