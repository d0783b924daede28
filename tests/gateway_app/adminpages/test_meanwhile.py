"""What somebody else changes after a page or a command has looked, before it acts: what was not seen is not done."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from django.urls import reverse

from gateway_app.adminpages import canaryadmin, historyadmin
from gateway_app.canaries import canary
from gateway_app.management.commands import canary as canary_command
from gateway_app.models import Canary, Revision, Tuning, Worker
from gateway_app.previewing.present import Present
from tests.e2e.adminsite import Form

pytestmark = pytest.mark.django_db

CANARY = "/admin/gateway_app/canary/"


@pytest.fixture(autouse=True)
def workers() -> None:
    for number in (1, 2, 3):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number)


@pytest.fixture
def ada(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough one"))
    return client


def another_is_tried(*args: Any) -> str:
    """Somebody else ends what is tried, and tries something else."""
    canary.abort("bob")
    canary.start("worker_1", {"batch_size": 2}, "bob")
    return ""


@pytest.mark.parametrize("step", ["promote", "abort"])
def test_only_the_canary_that_was_seen_is_ended(ada: Client, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    canary.start("worker_2", {"batch_size": 64})
    sent = Form(ada.post(f"{CANARY}{step}/").content.decode()).values
    monkeypatch.setattr(canaryadmin, "comment_of", another_is_tried)  # read when all has been checked
    page = ada.post(f"{CANARY}{step}/", sent, follow=True).content.decode()
    assert "What is tried has changed meanwhile: now worker_1 tries requests per batch 2." in page
    assert Canary.objects.get().worker == "worker_1"
    assert Tuning.objects.get().batch_size not in (64, 2)


def test_only_the_canary_that_a_person_was_asked_about_is_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    canary.start("worker_2", {"batch_size": 64})
    monkeypatch.setattr(canary_command, "confirm", another_is_tried)
    monkeypatch.setattr(canary_command, "gateway_stats", lambda url: (None, "no gateway"))
    with pytest.raises(CommandError, match="What is tried has changed meanwhile"):
        call_command("canary", "promote")
    assert Canary.objects.get().worker == "worker_1"


def test_a_revision_saved_at_the_last_moment_is_not_undone_unseen(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning, _ = Tuning.objects.get_or_create(pk=Tuning.ONLY)
    tuning.virtual_nodes = 100
    tuning.save()
    url = reverse("admin:revision_restore", args=(Revision.objects.latest("id").pk,))
    tuning.virtual_nodes = 200
    tuning.save()
    sent = Form(ada.get(url).content.decode()).values

    def saved_just_then() -> Present | None:
        tuning.batch_size = 8
        tuning.save()
        return None

    monkeypatch.setattr(historyadmin, "present", saved_just_then)
    page = ada.post(url, {**sent, "guard": "on"}, follow=True).content.decode()
    assert "has been saved meanwhile: look at what would be changed now." in page
    assert (Tuning.objects.get().virtual_nodes, Tuning.objects.get().batch_size) == (200, 8)
