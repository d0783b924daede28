"""Who may load and unload models."""

from typing import Any

import pytest

from inference_site.lib.errors import ApiError
from inference_site.v2.access import require_control


def refusal(authorization: str | None, host: str | None, forwarded: bool = False) -> str:
    with pytest.raises(ApiError) as caught:
        require_control(authorization, host, forwarded)
    assert (caught.value.status, caught.value.code) == (403, "forbidden")
    assert "MODEL_CONTROL_TOKEN" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_a_token_who_asks_from_this_machine_may(settings: Any, host: str) -> None:
    settings.MODEL_CONTROL_TOKEN = ""
    require_control(None, host, False)
    require_control("Bearer x", host, False)
    assert "proxy" in refusal(None, host, True)


@pytest.mark.parametrize("host", [None, "", "10.0.0.1", "::ffff:10.0.0.1", "::1234", "127.0.0.1.evil", "localhost"])
def test_without_a_token_nobody_else_may(settings: Any, host: str | None) -> None:
    settings.MODEL_CONTROL_TOKEN = ""
    assert (host or "elsewhere") in refusal(None, host)


def test_with_a_token_who_knows_it_may_from_anywhere(settings: Any) -> None:
    settings.MODEL_CONTROL_TOKEN = "sécret"
    require_control("Bearer sécret", "10.0.0.1", True)
    for wrong in (None, "", "sécret", "Bearer", "Bearer s", "bearer sécret", "Bearer sécret "):
        assert "sécret" not in refusal(wrong, "127.0.0.1")
