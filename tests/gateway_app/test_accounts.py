"""The administrator made on first use."""

import pytest
from django.contrib.auth import authenticate, get_user_model

from gateway_app.accounts import ensure_admin

pytestmark = pytest.mark.django_db


def test_the_first_use_makes_an_administrator_whose_password_works():
    password = ensure_admin()
    assert password is not None
    user = authenticate(username="admin", password=password)
    assert user is not None
    assert user.is_superuser
    assert user.is_staff


def test_later_uses_make_none():
    assert ensure_admin() is not None
    assert ensure_admin() is None


def test_another_superuser_is_enough():
    get_user_model().objects.create_superuser("somebody", password="their own secret")
    assert ensure_admin() is None


def test_an_ordinary_account_of_that_name_is_left_alone():
    get_user_model().objects.create_user("admin", password="their own secret")
    assert ensure_admin() is None
    assert not get_user_model().objects.get(username="admin").is_superuser
