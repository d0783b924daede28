"""How texts and samples are kept."""

from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from worker_app.core.keys import alias_of, belong_together, key_of, routing_of

SHORT = st.binary(max_size=60)
LONG = st.binary(min_size=2049, max_size=2060)


@given(text=SHORT | LONG)
def test_an_alias_keeps_the_routing_key_of_its_text(text: bytes) -> None:
    alias = alias_of(text)
    assert routing_of(alias) == xxh3_64_intdigest(text)
    assert belong_together(alias, xxh3_64_intdigest(text))
    assert not belong_together(alias, xxh3_64_intdigest(text) ^ 1)


@given(one=SHORT | LONG, other=SHORT | LONG)
def test_only_the_same_has_the_same_key(one: bytes, other: bytes) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)
    assert (alias_of(one) == alias_of(other)) == (one == other)


@given(data=LONG)
def test_what_is_long_is_kept_short(data: bytes) -> None:
    assert len(key_of(data)) == 64
    assert len(alias_of(data)) == 80
    assert key_of(data) != str(key_of(data)).encode()


@given(routing=st.integers(0, 2**64 - 1), rest=st.text(max_size=80), cut=st.integers(0, 15))
def test_an_alias_of_a_stranger_may_be_anything(routing: int, rest: str, cut: int) -> None:
    assert not belong_together("x" + rest, routing)
    assert not belong_together(f"{routing:016x}"[:cut], routing)
    alias = f"{routing:016x}" + rest
    assert belong_together(alias, routing)
    assert routing_of(alias) == routing
