"""Whose results go where when a worker leaves or comes back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway_app.core.call import Route
from gateway_app.streams.handoff import REMEMBER_S, HandOff
from gateway_app.streams.links import WorkerLink
from inference_site.lib.frames import Ask
from inference_site.lib.handoff import SHARE_BYTES, Entries, Entry, decode, encode
from tests.gateway_app.core.fleet import PLAIN, World

KEYS = [number * 2**64 // 50 for number in range(50)]


class Listener:
    """A link that notes its orders."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.name = route.name
        self.policy = PLAIN
        self.sharing = 0
        self.orders: list[tuple[Ask, bytes]] = []

    def order(self, kind: Ask, payload: bytes = b"") -> None:
        self.orders.append((kind, payload))

    def share(self) -> int:
        self.orders.append((Ask.SHARE, b""))
        return 2

    def take(self) -> list[tuple[Ask, bytes]]:
        """What it was told since the last look."""
        found, self.orders = self.orders, []
        return found


class Bench:
    """Three workers, `a` to `c`, of which `a` will leave."""

    def __init__(self) -> None:
        self.world = World("abc", PLAIN)
        self.model = "m"  # that results are of
        self.links = {name: Listener(route) for name, route in self.world.router.routes.items()}
        links = cast(dict[str, WorkerLink], self.links)
        models: Any = SimpleNamespace(served={("m", "1"): SimpleNamespace(router=self.world.router)})
        self.handoff = HandOff(models, links, self.world.clock)

    def link(self, name: str) -> WorkerLink:
        return cast(WorkerLink, self.links[name])

    def share(self, name: str, *entries: Entry) -> bytes:
        """This worker hands over results; the payload."""
        payload = encode(Entries(self.model, "1", "digest", list(entries)))
        self.handoff.take(self.link(name), payload)
        return payload

    def kept(self) -> dict[str, list[Entry]]:
        """What each worker was given since the last look."""
        return {
            name: [entry for kind, payload in link.take() if kind == Ask.KEEP for entry in decode(payload).entries]
            for name, link in self.links.items()
        }


def entry(key: int) -> Entry:
    return Entry(key, b"[%d]" % key, b"sample", b"[0.5]")


def leave(bench: Bench) -> None:
    bench.world.route("a").leaving = True
    bench.handoff.leaving(bench.link("a"))


def test_what_a_leaving_worker_has_goes_to_those_who_are_asked_for_it_now():
    bench = Bench()
    leave(bench)
    assert bench.links["a"].take() == [(Ask.SHARE, b"")]
    bench.share("a", *map(entry, KEYS))
    heirs = {key: next(name for name in bench.world.owners(key) if name != "a") for key in KEYS}
    assert bench.kept() == {
        name: [entry(key) for key in KEYS if heirs[key] == name] for name in "abc"
    }  # "a" itself gets nothing


def test_a_worker_is_sharing_until_it_has_sent_the_last_of_its_results():
    bench = Bench()
    leave(bench)
    assert bench.links["a"].sharing
    bench.share("a", entry(1))
    assert bench.links["a"].sharing
    bench.share("a")
    assert bench.links["a"].sharing  # it has another model
    bench.share("a")
    assert not bench.links["a"].sharing


@pytest.mark.parametrize("late", [False, True])
def test_who_comes_back_gets_what_it_left_and_what_others_have_of_its_keys(late: bool):
    bench = Bench()
    leave(bench)
    payload = bench.share("a", *map(entry, KEYS))
    bench.kept()
    bench.world.clock.now += REMEMBER_S if late else REMEMBER_S - 1
    bench.handoff.forget()
    bench.world.connect("a")
    bench.handoff.returned(bench.link("a"))
    assert bench.links["a"].take() == ([] if late else [(Ask.KEEP, payload)])
    assert bench.links["b"].take() == bench.links["c"].take() == [(Ask.SHARE, b"")]
    bench.share("b", *map(entry, KEYS))
    assert bench.kept() == {"a": [entry(key) for key in KEYS if bench.world.owners(key)[0] == "a"], "b": [], "c": []}
    bench.world.clock.now += REMEMBER_S
    bench.handoff.forget()
    bench.share("b", *map(entry, KEYS))
    assert not any(bench.kept().values())


def test_what_was_left_by_workers_that_never_came_back_is_forgotten():
    bench = Bench()
    leave(bench)
    bench.share("a", *map(entry, KEYS))
    bench.world.clock.now += REMEMBER_S
    bench.handoff.forget()
    bench.handoff.leaving(bench.link("b"))
    assert list(bench.handoff._legacies) == ["b"]


def test_no_more_is_kept_for_a_worker_than_it_may_share():
    bench = Bench()
    leave(bench)
    large = Entry(1, b"[1]", b"sample", bytes(SHARE_BYTES // 2))
    payloads = [bench.share("a", large) for _ in range(3)]
    for link in bench.links.values():
        link.take()
    bench.handoff.returned(bench.link("a"))
    assert bench.links["a"].take() == [(Ask.KEEP, payloads[0])]


def test_nothing_moves_when_it_is_switched_off_or_cannot_be_read():
    bench = Bench()
    bench.handoff.take(bench.link("b"), b"garbage")
    for link in bench.links.values():
        link.policy = replace(PLAIN, hand_off=False)
    leave(bench)
    bench.handoff.returned(bench.link("a"))
    assert not any(link.orders or link.sharing for link in bench.links.values())


def test_results_of_what_is_not_served_any_more_go_nowhere():
    bench = Bench()
    bench.model = "gone"
    leave(bench)
    bench.share("a", *map(entry, KEYS))
    assert not any(bench.kept().values())
