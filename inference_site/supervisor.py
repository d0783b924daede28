"""Starts the processes of a cluster, restarts those that die, and stops all in order. Knows nothing of Django."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inference_site.child import OWN_NAME, Child, ChildSpec, own_line
from inference_site.console import Console
from inference_site.patience import Patience
from inference_site.process import TAIL_S

EARLY_DEATHS = 2  # so many of one process before the first "ready": it is not going to work
RESTART_WITHIN_S = 30.0  # for one process of a rolling restart to drain, end, start and be ready
LOOK_S = 3.0  # that it takes at the most to find out whether all is well


class SupervisorError(Exception):
    """The cluster did not become ready; the message says which process and why."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Processes that stop together, killed after `stop_wait_s`. Stages stop in reverse order, one after the other."""

    children: tuple[ChildSpec, ...]
    stop_wait_s: float


class Supervisor:
    """Runs the stages until TERM or INT. `check` says why the whole is not ready though each part is, "" when it is."""

    def __init__(
        self,
        stages: Sequence[Stage],
        console: Console,
        *,
        ready_line: str,
        check: Callable[[], str] = lambda: "",
        ready_within_s: float = 40.0,
    ) -> None:
        self._console = console
        self._ready_line = ready_line
        self._check = check
        self._ready_within_s = ready_within_s
        self._stop_asked_at: float | None = None
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._is_ready = False
        self._rolling: asyncio.Task[None] | None = None
        self._width = max(len(name) for name in [OWN_NAME, *(c.name for s in stages for c in s.children)])
        self._stages = [(stage, [Child(spec, self._say) for spec in stage.children]) for stage in stages]
        self._children = [child for _, children in self._stages for child in children]

    def run(self) -> None:
        """Returns after an ordered stop; raises SupervisorError, everything stopped, if "ready" was never reached."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        heeded = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in heeded:  # not by the loop, which at its end would let the next one kill
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._on_signal, signal.Signals(number)))
        tasks = {child: asyncio.create_task(child.run()) for child in self._children}
        ready = asyncio.create_task(self._become_ready())
        asked = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({ready, asked}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if ready.done():
                await ready
                self._is_ready = True
                await asked
        finally:
            if self._rolling is not None:
                self._rolling.cancel()
            ready.cancel()
            asked.cancel()
            await self._stop_all(tasks)
            # The process ends with this supervisor: a signal that comes late must not turn its status 0 into a failure.
            for number in heeded:
                signal.signal(number, signal.SIG_IGN)

    async def _become_ready(self) -> None:
        patience = Patience(self._ready_within_s, LOOK_S)
        while True:
            is_last = patience.is_over
            reasons = await asyncio.gather(*(asyncio.to_thread(child.why_not_ready) for child in self._children))
            for child in self._children:
                if child.deaths >= EARLY_DEATHS:
                    last_lines = "\n".join(f"    {line}" for line in child.tail) or "    (it printed nothing)"
                    raise SupervisorError(
                        f"{child.spec.name} {child.last_end}, {child.deaths} times before the cluster was ready; "
                        f"its last lines:\n{last_lines}"
                    )
            unready = [f"{c.spec.name}: {why}" for c, why in zip(self._children, reasons, strict=True) if why]
            if not unready and (why := await asyncio.to_thread(self._check)):
                unready = [why]
            if not unready:
                self._console.line(self._ready_line, urgent=True)
                return
            if is_last:
                raise SupervisorError(f"not ready within {self._ready_within_s:g} s: " + "; ".join(unready))
            await asyncio.sleep(0.1)

    async def _stop_all(self, tasks: Mapping[Child, asyncio.Task[None]]) -> None:
        for stage, children in reversed(self._stages):
            for child in children:
                child.stop(max(0.0, stage.stop_wait_s - TAIL_S))
            patience = Patience(stage.stop_wait_s)
            while pending := [child for child in children if not tasks[child].done()]:
                if self._hurry.is_set() or patience.is_over:
                    for child in pending:
                        child.kill()
                    await asyncio.wait([tasks[child] for child in pending], timeout=1.0)
                    break
                await asyncio.wait([tasks[child] for child in pending], timeout=0.1)

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if number == signal.SIGHUP:
            self._on_hangup()
        elif self._stop_asked_at is None:
            self._stop_asked_at = now
            self._stop_asked.set()
            self._log(f"{number.name}: draining; a second signal stops without waiting")
        elif now - self._stop_asked_at > 1.0:  # sooner it is the same one: make passes on what its whole group got
            self._hurry.set()

    def _on_hangup(self) -> None:
        if not self._is_ready or self._stop_asked_at is not None:
            self._log("SIGHUP: nothing is restarted, the cluster is not ready")
        elif self._rolling is not None and not self._rolling.done():
            self._log("SIGHUP: a restart is under way already")
        else:
            self._rolling = asyncio.get_running_loop().create_task(self._restart_one_by_one())

    async def _restart_one_by_one(self) -> None:
        """Each process in turn, the next one only when all is well again: with the others there, nothing is lost."""
        began = time.monotonic()
        self._log("SIGHUP: restarting one by one")
        for child in self._children:
            starts, patience, why = child.starts, Patience(RESTART_WITHIN_S, LOOK_S), ""
            if child.spec.overlaps:
                why = await child.replace(RESTART_WITHIN_S)
            else:
                child.restart()
            while not why:
                is_last, is_one = patience.is_over, starts != child.starts and child.is_one
                unwell = await self._why_not_all_well() if is_one or is_last else ""
                if is_one and not unwell:
                    break
                if is_last:
                    why = unwell or "the one before has not ended"
                await asyncio.sleep(0.1)
            if why:
                self._log(f"{child.spec.name} is not replaced, the others are left as they are: {why}", "WARNING")
                return
        self._log(f"all have been restarted, in {time.monotonic() - began:.1f} s")

    async def _why_not_all_well(self) -> str:
        reasons = await asyncio.gather(*(asyncio.to_thread(child.why_not_ready) for child in self._children))
        return next(filter(None, reasons), "") or await asyncio.to_thread(self._check)

    def _log(self, text: str, level: str = "INFO") -> None:
        self._say(OWN_NAME, own_line(text, level))

    def _say(self, name: str, text: str) -> None:
        self._console.line(f"{name:<{self._width}} | {text}", urgent=name == OWN_NAME)
