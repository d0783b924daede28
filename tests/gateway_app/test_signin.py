"""The admin's sign-in: who fails too often waits, others do not, and the log says from where."""

import logging
from typing import Any

import pytest
from django.test import Client

from gateway_app import signin
from gateway_app.signin import BURST, EVERY_S, MAX_ADDRESSES, Tries, address_of

PASSWORD = "a long enough password"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(signin, "tries", Tries(made))
    return made


@pytest.fixture
def operator(django_user_model: Any) -> Any:
    return django_user_model.objects.create_superuser("operator", password=PASSWORD)


def sign_in(password: str, address: str = "192.0.2.1", **headers: str) -> Any:
    data = {"username": "operator", "password": password, "next": "/admin/"}
    return Client(REMOTE_ADDR=address, headers=headers).post("/admin/login/", data)


@pytest.mark.django_db
def test_after_ten_wrong_passwords_the_right_one_waits_too(clock: Clock, operator: Any) -> None:
    for _ in range(BURST):
        assert "Too many" not in sign_in("wrong").content.decode()
    refused = sign_in(PASSWORD)
    assert refused.status_code == 200
    assert f"Too many failed sign-ins from 192.0.2.1; try again in {EVERY_S:.0f} s." in refused.content.decode()
    assert sign_in(PASSWORD, "192.0.2.2").status_code == 302
    clock.now += EVERY_S
    assert sign_in(PASSWORD).status_code == 302


@pytest.mark.django_db
def test_who_signs_in_rightly_may_do_so_as_often_as_he_likes(clock: Clock, operator: Any) -> None:
    for _ in range(2 * BURST):
        assert sign_in(PASSWORD).status_code == 302


@pytest.mark.django_db
def test_the_log_says_from_where_and_no_more(clock: Clock, operator: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sign_in("my secret")
    assert [each.getMessage() for each in caplog.records if each.name == signin.__name__] == [
        "a sign-in from 192.0.2.1 failed"
    ]
    assert "my secret" not in caplog.text


@pytest.mark.parametrize(
    ("behind", "forwarded", "address"),
    [
        (False, "198.51.100.7", "127.0.0.1"),  # anybody may write that
        (True, "198.51.100.7", "198.51.100.7"),
        (True, "made up, 198.51.100.7", "198.51.100.7"),  # the proxy's own is the last
        (True, "", "127.0.0.1"),
    ],
)
def test_behind_a_proxy_the_address_is_what_that_says(
    settings: Any, rf: Any, behind: bool, forwarded: str, address: str
) -> None:
    settings.IS_BEHIND_TLS = behind
    assert address_of(rf.get("/", headers={"X-Forwarded-For": forwarded})) == address


def test_tries_come_back_one_by_one(clock: Clock) -> None:
    tries = Tries(clock)
    assert [tries.take("a") for _ in range(BURST)] == [0.0] * BURST
    assert tries.take("a") == EVERY_S
    assert tries.take("b") == 0
    clock.now += EVERY_S / 2
    assert tries.take("a") == EVERY_S / 2
    clock.now += EVERY_S / 2
    assert [tries.take("a"), tries.take("a")] == [0.0, EVERY_S]
    clock.now += 100 * EVERY_S
    assert [tries.take("a") for _ in range(BURST + 1)] == [0.0] * BURST + [EVERY_S]


def test_what_is_given_back_may_be_taken_again(clock: Clock) -> None:
    tries = Tries(clock)
    for _ in range(5 * BURST):
        assert tries.take("a") == 0
        tries.give_back("a")


def test_addresses_without_end_take_no_memory_without_end(clock: Clock) -> None:
    tries = Tries(clock)
    for _ in range(BURST + 1):
        tries.take("b")
    for number in range(MAX_ADDRESSES - 1):
        tries.take(f"first{number}")
    clock.now += EVERY_S
    tries.take("c")  # those that have all of their tries again are forgotten
    assert (len(tries._whole_at), tries.take("b"), tries.take("b")) == (2, 0, EVERY_S)
    for number in range(2 * MAX_ADDRESSES):
        tries.take(f"second{number}")
        assert len(tries._whole_at) <= MAX_ADDRESSES
