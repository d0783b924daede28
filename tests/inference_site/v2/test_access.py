"""Who may load and unload models."""

from typing import Any

import pytest

from inference_site.lib.errors import ApiError
from inference_site.v2.access import require_control


def refusal(headers: dict[str, str], host: str | None) -> str:
    with pytest.raises(ApiError) as caught:
        require_control(headers, host)
    assert (caught.value.status, caught.value.code) == (403, "forbidden")
    assert "MODEL_CONTROL_TOKEN" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_a_token_who_asks_from_this_machine_may(settings: Any, host: str) -> None:
    settings.MODEL_CONTROL_TOKEN = ""
    for headers in ({}, {"authorization": "Bearer x", "user-agent": "curl"}, {"sec-fetch-site": "none"}):
        require_control(headers, host)


@pytest.mark.parametrize("host", [None, "", "10.0.0.1", "::ffff:10.0.0.1", "::1234", "127.0.0.1.evil", "localhost"])
def test_without_a_token_nobody_else_may(settings: Any, host: str | None) -> None:
    settings.MODEL_CONTROL_TOKEN = ""
    assert (host or "elsewhere") in refusal({}, host)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("origin", "http://elsewhere.example"), ("origin", "null"), ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"), ("x-forwarded-for", "8.8.8.8"), ("x-forwarded-host", "a"),
        ("x-forwarded-proto", "https"), ("forwarded", "for=8.8.8.8"), ("via", "1.1 a"), ("x-real-ip", "8.8.8.8"),
        ("cf-connecting-ip", "8.8.8.8"), ("true-client-ip", "8.8.8.8"), ("x-client-ip", ""),
    ],
)  # fmt: skip
def test_without_a_token_nothing_that_a_proxy_or_a_page_has_sent_may(settings: Any, name: str, value: str) -> None:
    settings.MODEL_CONTROL_TOKEN = ""
    assert name in refusal({"user-agent": "x", name: value}, "127.0.0.1")


def test_with_a_token_who_knows_it_may_from_anywhere(settings: Any) -> None:
    settings.MODEL_CONTROL_TOKEN = "secret"
    require_control({"authorization": "Bearer secret", "x-real-ip": "8.8.8.8", "origin": "null"}, "10.0.0.1")
    assert "secret" not in refusal({}, "127.0.0.1")
    for wrong in ("", "secret", "Bearer", "Bearer s", "bearer secret", "Bearer secret ", "Bearer \udcff"):
        assert "secret" not in refusal({"authorization": wrong}, "127.0.0.1")
