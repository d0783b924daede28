"""How texts and samples are kept."""

from hypothesis import given
from hypothesis import strategies as st

from inference_site.lib import asks
from worker_app.core.keys import alias_by_key, alias_of, belong_together, key_of, routing_of

SEED = asks.seed_of("digits", "1")
SHORT = st.binary(max_size=60)
LONG = st.binary(min_size=2049, max_size=2060)


@given(text=SHORT | LONG)
def test_an_alias_keeps_the_routing_key_of_its_text(text: bytes) -> None:
    alias = alias_of(text, SEED)
    assert routing_of(alias, SEED) == asks.key_of(text, SEED)
    assert belong_together(alias, asks.key_of(text, SEED), SEED)
    assert not belong_together(alias, asks.key_of(text, SEED) ^ 1, SEED)


@given(one=SHORT | LONG, other=SHORT | LONG)
def test_only_the_same_has_the_same_key(one: bytes, other: bytes) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)
    assert (alias_of(one, SEED) == alias_of(other, SEED)) == (one == other)


@given(data=LONG)
def test_what_is_long_is_kept_short(data: bytes) -> None:
    assert len(key_of(data)) == 64
    assert len(alias_of(data, SEED)) == 80
    assert key_of(data) != str(key_of(data)).encode()


@given(routing=st.integers(0, 2**64 - 1), rest=st.text(max_size=80), cut=st.integers(0, 15))
def test_an_alias_of_a_stranger_may_be_anything(routing: int, rest: str, cut: int) -> None:
    assert not belong_together("x" + rest, routing, SEED)
    assert not belong_together(f"{routing:016x}"[:cut], routing, SEED)
    alias = f"{routing:016x}" + rest
    assert belong_together(alias, routing, SEED)
    assert routing_of(alias, SEED) == routing


@given(key=SHORT | LONG, routing=st.integers(0, 2**64 - 1))
def test_an_alias_by_key_keeps_its_routing_key_and_is_no_other_alias(key: bytes, routing: int) -> None:
    for each in (key, key_of(key)):
        alias = alias_by_key(routing, each)
        assert routing_of(alias, SEED) == routing
        assert belong_together(alias, routing, SEED)
        assert alias != alias_of(key, SEED)
