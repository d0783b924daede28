"""Several models over one stream: under their numbers, told as they come and go, flushed and shared."""

from pathlib import Path

import msgspec

from inference_site.lib import asks, frames, handoff
from inference_site.lib.catalog import Models, ModelSettings
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.file_engine import Shelf
from tests.worker_app.file_engine import answer as word
from tests.worker_app.gateway_side import Connect, GatewaySide, answer_to, infer, proven, the_model


async def test_an_older_revision_is_ignored_but_not_that_of_a_new_database(connect: Connect) -> None:
    node = echo_node()

    def settings(revision: int) -> bytes:
        return frames.ask(Ask.SETTINGS, 0, msgspec.json.encode(NodeSettings(revision=revision)))

    side = await proven(connect, node)
    side.give(settings(7))
    side.give(settings(6) + frames.ask(Ask.PING, 1, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert node.settings.revision == 7
    again = connect(node)
    again.give(await again.proof("secret") + settings(2))
    await again.until(lambda: node.settings.revision == 2)
    again.give(settings(1) + settings(2) + settings(3) + settings(2))
    await again.until(lambda: node.settings.revision == 3)


async def test_results_are_shared_and_kept_over_streams(connect: Connect, start: Start) -> None:
    giver, taker = start(echo_node()), start(echo_node())
    one, other = await proven(connect, giver), await proven(connect, taker)
    one.give(infer(1, 1, 2, 3, 4))
    await one.until(lambda: one.of(Tell.RESULT))
    one.give(frames.ask(Ask.SHARE, 5, b"", 0, 1) + frames.ask(Ask.SHARE, 6, b"", 0, 1))
    await one.until(lambda: len(one.of(Tell.ENTRIES)) == 4)
    payloads = {ident: [reply[5] for reply in one.of(Tell.ENTRIES) if reply[3] == ident] for ident in (5, 6)}
    assert payloads[5] == payloads[6]
    assert [len(handoff.decode(payload).entries) for payload in payloads[5]] == [1, 0]
    other.give(b"".join(frames.ask(Ask.KEEP, 0, payload) for payload in payloads[5]))
    other.give(infer(1, 1, 2, 3, 4))
    await other.until(lambda: other.of(Tell.RESULT))
    assert other.of(Tell.RESULT)[0][1] == Cache.HIT
    assert other.of(Tell.RESULT)[0][5] == one.of(Tell.RESULT)[0][5]


def settings(revision: int, **models: ModelSettings) -> bytes:
    return frames.ask(Ask.SETTINGS, 0, msgspec.json.encode(NodeSettings(revision=revision, models=models)))


def uses(*numbers: int) -> bytes:
    return frames.ask(Ask.USES, 0, msgspec.json.encode(numbers))


def told(side: GatewaySide) -> list[Models]:
    return [msgspec.json.decode(reply[5], type=Models) for reply in side.of(Tell.MODELS)]


async def test_the_models_are_told_after_settings_and_not_before(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(), EchoEngine(name="b"))))
    side.give(frames.ask(Ask.PING, 1, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert not told(side)
    side.give(settings(4))
    await side.until(lambda: told(side))
    (models,) = told(side)
    assert (models.revision, models.default) == (4, "")
    assert [(info.number, info.name, info.state) for info in models.models] == [(2, "b", "READY"), (1, "echo", "READY")]
    side.give(settings(3))  # older: not in force, but answered
    await side.until(lambda: len(told(side)) == 2)
    assert told(side)[1].revision == 4


async def test_each_model_answers_under_its_number_and_another_number_is_gone(connect: Connect, start: Start) -> None:
    engines = EchoEngine(), EchoEngine(values=2, name="b")
    side = await proven(connect, start(echo_node(*engines)))
    side.give(infer(1, 1, 2, 3, 4, model=1) + infer(2, 5, 6, model=2) + infer(3, 5, 6, model=3) + infer(4, 5, model=0))
    side.give(frames.ask(Ask.CHECK, 5, b"", 0, 3) + frames.ask(Ask.CHECK, 6, b"", 0, 2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    results = {reply[3]: reply[5] for reply in side.of(Tell.RESULT)}
    assert results == {1: answer_to(1, 2, 3, 4), 2: answer_to(5, 6), 6: b""}
    assert [reply[3] for reply in side.of(Tell.GONE)] == [3, 4, 5]


async def test_a_result_is_bound_to_its_model_too(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(), EchoEngine(name="b"))))
    side.give(infer(1, 1, 2, 3, 4, model=1) + infer(2, 1, 2, 3, 4, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    for reply, name in zip(sorted(side.of(Tell.RESULT), key=lambda reply: reply[3]), ("echo", "b"), strict=True):
        key = asks.key_of(b"[1, 2, 3, 4]", asks.seed_of(name, "1"))
        assert reply[6] == frames.check_of(reply[5], key)


async def test_a_new_version_is_told_while_it_loads_and_the_old_one_goes_when_it_is_let_go(
    connect: Connect, start: Start, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    side = await proven(connect, node)
    side.give(settings(1) + uses(1))
    await side.until(lambda: told(side))
    shelf.put("a", "2", "new")
    shelf.open.clear()
    side.give(settings(2, a=ModelSettings(order=1)))
    await side.until(lambda: len(told(side)) == 2)
    assert [(info.version, info.state) for info in told(side)[1].models] == [("1", "READY"), ("2", "LOADING")]
    side.give(infer(1, 1, 2, model=1))
    await side.until(lambda: side.of(Tell.RESULT))
    shelf.open.set()
    await side.until(lambda: len(told(side)) == 3)
    both = {info.number: (info.version, info.state, info.current) for info in told(side)[2].models}
    assert both == {1: ("1", "READY", False), 2: ("2", "READY", True)}
    assert told(side)[2].revision == 2
    side.give(infer(2, 1, 2, model=1) + infer(3, 1, 2, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    results = {reply[3]: reply[5] for reply in side.of(Tell.RESULT)}
    assert results == {1: word("old", 1, 2), 2: word("old", 1, 2), 3: word("new", 1, 2)}
    side.give(uses(2) + infer(4, 1, 2, model=1))
    await side.until(lambda: side.of(Tell.GONE))
    assert [info.number for info in told(side)[-1].models] == [2]


async def test_what_could_not_be_loaded_is_told(connect: Connect, start: Start, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "old")
    side = await proven(connect, start(shelf.node()))
    shelf.put("a", "2", "broken")
    side.give(settings(1, a=ModelSettings(order=1)))
    await side.until(lambda: len(told(side)) == 2)
    good, bad = told(side)[1].models
    assert (good.number, good.current, good.state) == (1, True, "READY")
    assert (bad.number, bad.state) == (0, "UNAVAILABLE")
    assert "it is broken" in bad.reason


async def test_results_of_one_model_are_shared_and_of_none_only_the_end(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(), EchoEngine(name="b"))))
    side.give(infer(1, 1, 2, 3, 4, model=2))
    await side.until(lambda: side.of(Tell.RESULT))
    side.give(b"".join(frames.ask(Ask.SHARE, number, b"", 0, number) for number in (1, 2, 3)))
    await side.until(lambda: len(side.of(Tell.ENTRIES)) == 4)
    found = [(reply[3], handoff.decode(reply[5])) for reply in side.of(Tell.ENTRIES)]
    counts = {number: [len(each.entries) for ident, each in found if ident == number] for number in (1, 2, 3)}
    assert counts == {1: [0], 2: [1, 0], 3: [0]}
    assert {(each.name, each.version) for ident, each in found if ident == 2} == {("b", "1")}


async def test_flush_forgets_the_results_of_all_models(connect: Connect, start: Start) -> None:
    engines = [EchoEngine(name="a"), EchoEngine(name="b")]
    node = start(echo_node(*engines))
    side = await proven(connect, node)
    side.give(infer(1, 1, 2, 3, 4, model=1) + infer(2, 1, 2, 3, 4, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    assert [len(model.results) for model in node.models.values()] == [1, 1]
    side.give(frames.ask(Ask.FLUSH, 0, b""))
    await side.until(lambda: not any(len(model.results) or len(model.aliases) for model in node.models.values()))
    side.give(infer(3, 1, 2, 3, 4, model=1) + infer(4, 1, 2, 3, 4, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 4)
    assert [reply[1] for reply in side.of(Tell.RESULT)] == [Cache.MISS] * 4
    assert [engine.ran for engine in engines] == [2, 2]


async def test_what_was_under_way_at_a_flush_is_neither_joined_nor_kept(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    node = start(echo_node(engine))
    side = await proven(connect, node)
    side.give(infer(1, 1, 2, 3, 4))
    await side.until(lambda: engine.runs)
    side.give(frames.ask(Ask.FLUSH, 0, b"") + infer(2, 1, 2, 3, 4))
    await side.until(lambda: the_model(node).tally.requests == 2)
    engine.let_end(1)
    await side.until(lambda: side.of(Tell.RESULT))
    assert not len(the_model(node).results)
    engine.let_end(1)
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    assert [reply[1] for reply in side.of(Tell.RESULT)] == [Cache.MISS, Cache.MISS]
    assert engine.ran == 2
    assert len(the_model(node).results) == 1
