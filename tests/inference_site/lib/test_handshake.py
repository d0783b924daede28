"""The handshake's proofs: bound to token, challenge, name, process and side."""

from itertools import combinations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inference_site.lib import handshake

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.tuples(TEXT, TEXT, TEXT, TEXT), st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_a_workers_proof_fits_only_what_it_was_made_for(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    # HMAC pads keys with zeros, so tokens that differ in trailing zeros alone are the same key by definition.
    assume(one != other)
    assume(one[0].rstrip("\0") == one[0])
    assume(other[0].rstrip("\0") == other[0])
    assert not handshake.same(handshake.worker_proof(*one), handshake.worker_proof(*other))
    assert handshake.same(handshake.worker_proof(*one), handshake.worker_proof(*one))


def test_moving_characters_between_the_parts_changes_the_proof() -> None:
    proofs = [
        handshake.worker_proof("t", "ab", "c", "d"),
        handshake.worker_proof("t", "a", "bc", "d"),
        handshake.worker_proof("t", "ab", "", "cd"),
        handshake.worker_proof("t", "", "abc", "d"),
    ]
    assert len(set(proofs)) == len(proofs)


def test_one_sides_proof_is_never_the_others() -> None:
    assert handshake.gateway_proof("t", "x") != handshake.worker_proof("t", "x", "", "")


def test_without_a_token_the_name_still_counts() -> None:
    assert handshake.worker_proof("", "x", "worker_1", "i") != handshake.worker_proof("", "x", "worker_2", "i")


def test_a_proof_does_not_show_the_token() -> None:
    assert "secret" not in handshake.gateway_proof("secret", "x") + handshake.worker_proof("secret", "x", "n", "i")


def test_challenges_never_repeat() -> None:
    found = [handshake.new_challenge() for _ in range(1000)]
    assert len(set(found)) == 1000
    assert all(len(bytes.fromhex(each)) == 16 for each in found)


def test_same_takes_any_text() -> None:
    for left, right in combinations(["", "a", "ä", "\udfff".encode("utf-8", "replace").decode(), "a" * 64], 2):
        assert not handshake.same(left, right)
        assert handshake.same(left, left)
