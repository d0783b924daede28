"""A canary as rows: started, promoted, aborted, each as one revision; and what is refused, with a sentence."""

from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

from gateway_app.canaries import canary
from gateway_app.config import load_snapshot
from gateway_app.models import Canary, ModelRecord, Revision, Tuning, Worker
from gateway_app.operating.restore import restore
from gateway_app.snapshot import InvalidConfig, parse
from tests.e2e.adminsite import Form

pytestmark = pytest.mark.django_db
PAGE = "/admin/gateway_app/canary/"


@pytest.fixture(autouse=True)
def workers() -> None:
    for number in (1, 2, 3):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the gateway of this process serves: the version that answers, by model."""
    found = {"digits": "1"}
    monkeypatch.setattr(canary, "answering_versions", lambda: found)
    return found


def newest() -> Revision:
    return Revision.objects.latest("id")


# --- settings ---


def test_one_worker_gets_other_settings_and_all_others_the_same_as_before():
    before = Revision.objects.count()
    said = canary.start("worker_2", {"batch_size": 64, "cache_mib": 8}, "ann", "is it quicker?")
    assert said == "Now tried on worker_2: requests per batch 64, MiB per worker 8."
    assert Revision.objects.count() == before + 1
    assert (newest().author, newest().comment) == ("ann", "is it quicker?")
    assert newest().summary == "canary on worker_2 started (requests per batch 64, MiB per worker 8)"
    snapshot = load_snapshot()
    assert snapshot.node_for("worker_1") == snapshot.node_for("worker_3") == snapshot.node
    tried = snapshot.node_for("worker_2")
    assert (tried.batch_size, tried.cache_bytes, tried.cache_entries) == (64, 8 * 2**20, snapshot.node.cache_entries)


def test_promoted_it_is_everybodys():
    canary.start("worker_2", {"batch_size": 64})
    said = canary.promote("ann", "it is")
    assert said == "All workers get what worker_2 has tried: requests per batch 64."
    assert not Canary.objects.exists()
    assert Tuning.objects.get().batch_size == 64
    assert newest().summary == (
        "canary promoted: requests per batch 32 → 64; canary on worker_2 ended (requests per batch 64)"
    )
    assert load_snapshot().node_for("worker_1").batch_size == 64


def test_aborted_all_is_as_before():
    node = load_snapshot().node
    canary.start("worker_2", {"batch_eager": False, "batch_wait_ms": 5.0})
    assert "start at once when the model is free off" in newest().summary
    assert canary.abort("ann").startswith("No longer tried on worker_2: start at once when the model is free off")
    assert newest().summary.startswith("canary aborted: canary on worker_2 ended")
    snapshot = load_snapshot()
    assert snapshot.node_for("worker_2") == snapshot.node
    assert (snapshot.node.batch_size, snapshot.node.batch_eager) == (node.batch_size, node.batch_eager)


def test_what_is_as_it_was_is_not_tried():
    canary.start("worker_2", {"batch_size": 64, "cache_entries": 1000})
    assert Canary.objects.get().tuning == {"batch_size": 64}


def test_an_earlier_revision_brings_it_back():
    canary.start("worker_2", {"batch_size": 64}, "ann")
    number = newest().pk
    canary.abort()
    restore(number, "ben")
    row = Canary.objects.get()
    assert (row.worker, row.tuning, row.author) == ("worker_2", {"batch_size": 64}, "ben")


@pytest.mark.parametrize(
    ("worker", "changed", "says"),
    [
        ("worker_9", {"batch_size": 64}, "no worker 'worker_9'. Choose one of worker_1, worker_2, worker_3"),
        ("worker_2", {}, "Nothing was changed"),
        ("worker_2", {"batch_size": 32}, "All workers have these settings already"),
        ("worker_2", {"batch_size": 0}, "requests per batch: 0 is out of range. Choose from 1 to 1,024"),
        ("worker_2", {"batch_size": True}, "requests per batch: True is not a number"),
        ("worker_2", {"batch_eager": 1}, "1 is not true or false"),
        ("worker_2", {"batch_wait_ms": float("nan")}, "longest wait (ms): nan is no finite number"),
        ("worker_2", {"virtual_nodes": 3, "batch_size": 4}, "virtual nodes per worker: not of a single worker"),
        ("worker_2", {"batch_wait_ms": 5.0}, "longest wait (ms) 5 would change nothing: batches start at once"),
        ("worker_2", {"batch_eager": False, "batch_wait_ms": 0.0}, "Allow more than 0 ms here"),
        ("worker_2", {"batch_eager": False, "batch_wait_ms": 10_000.0}, "would run into its limit of 10000 ms"),
        ("worker_2", {"cache_mib": 1, "cache_entries": 10_000_000}, "10,000,000"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused_with_the_value_and_the_fix(worker, changed, says):
    before = Revision.objects.count()
    with pytest.raises(ValidationError) as refused:
        canary.start(worker, changed)
    assert says in refused.value.messages[0]
    assert not Canary.objects.exists()
    assert Revision.objects.count() == before


@pytest.mark.parametrize(("field", "value"), [("draining", True), ("isolated", True), ("enabled", False)])
def test_a_worker_that_would_show_nothing_is_refused(field, value):
    Worker.objects.filter(name="worker_2").update(**{field: value})
    with pytest.raises(ValidationError, match="so it would show nothing"):
        canary.start("worker_2", {"batch_size": 64})


def test_the_only_worker_has_nobody_to_compare_with():
    Worker.objects.exclude(name="worker_2").update(enabled=False)
    with pytest.raises(ValidationError, match="the only enabled worker"):
        canary.start("worker_2", {"batch_size": 64})


def test_one_thing_at_a_time():
    canary.start("worker_2", {"batch_size": 64})
    with pytest.raises(ValidationError, match="worker_2 tries requests per batch 64 already"):
        canary.start("worker_1", {"batch_size": 16})
    canary.abort()
    for step in (canary.promote, canary.abort):
        with pytest.raises(ValidationError, match="No worker tries anything now"):
            step()


def test_settings_that_each_model_has_of_its_own_are_refused(served):
    ModelRecord.objects.create(name="digits", batch_size=8)
    with pytest.raises(ValidationError, match=r"requests per batch 64 would change nothing: .* \(digits 8\)"):
        canary.start("worker_2", {"batch_size": 64})
    served["another"] = "1"
    assert canary.start("worker_2", {"batch_size": 64})


# --- a version of a model ---


def test_a_version_is_told_to_one_worker_and_the_others_keep_theirs(served):
    said = canary.start("worker_2", {}, model="digits", version="2")
    assert "All others keep version 1 of digits" in said
    snapshot = load_snapshot()
    wishes = {name: snapshot.node_for(name).models["digits"].versions for name in ("worker_1", "worker_2", "worker_3")}
    assert wishes == {"worker_1": ("1",), "worker_2": ("1", "2"), "worker_3": ("1",)}
    canary.promote()
    assert ModelRecord.objects.get().versions == "2"
    assert load_snapshot().node_for("worker_2") == load_snapshot().node


def test_promoted_it_takes_the_place_of_the_one_that_answered(served):
    ModelRecord.objects.create(name="digits", versions="1, 3")
    canary.start("worker_2", {"batch_size": 64}, model="digits", version="4")
    assert load_snapshot().node_for("worker_2").models["digits"].versions == ("1", "3", "4")
    canary.promote()
    assert ModelRecord.objects.get().versions == "1, 4"
    assert Tuning.objects.get().batch_size == 64


def test_aborted_the_others_version_stays_listed(served):
    canary.start("worker_2", {}, model="digits", version="2")
    assert "Versions of digits stay 1, so that no worker loads 2 by itself" in canary.abort()
    assert load_snapshot().node_for("worker_2").models["digits"].versions == ("1",)


@pytest.mark.parametrize(
    ("model", "version", "says"),
    [
        ("digits", "", "digits alone says nothing"),
        ("", "2", "version 2 alone says nothing"),
        ("digits", "two", "'two' is no version"),
        ("digits", "2, 3", "are 2 versions. Try one at a time"),
        ("digits", "1", "digits version 1 is everybody's already"),
        ("letters", "2", "No worker serves 'letters'. These are served: digits"),
        ("../x", "2", "cannot be a model's name"),
    ],
)
def test_a_version_that_cannot_be_tried_is_refused(served, model, version, says):
    with pytest.raises(ValidationError) as refused:
        canary.start("worker_2", {"batch_size": 64}, model=model, version=version)
    assert says in refused.value.messages[0]
    assert not Canary.objects.exists() and not ModelRecord.objects.exists()


def test_without_a_gateway_the_version_of_the_others_must_be_known():
    with pytest.raises(ValidationError, match="List it first, under versions"):
        canary.start("worker_2", {}, model="digits", version="2")
    assert canary.start("worker_2", {}, model="digits", version="2", stable="1")


def test_an_unloaded_model_is_not_tried(served):
    ModelRecord.objects.create(name="digits", loaded=False)
    with pytest.raises(ValidationError, match="digits is unloaded"):
        canary.start("worker_2", {}, model="digits", version="2")


# --- rows edited by hand ---

GOOD = {"worker": "a", "tuning": {"batch_size": 4}, "model": "", "version": ""}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({}, "canary is {}, not a list"),
        ([GOOD, GOOD], "canary has 2 rows; one at a time is tried"),
        ([{**GOOD, "tuning": {"virtual_nodes": 3}}], "canary 1, tuning: 'virtual_nodes' cannot be tried on one worker"),
        ([{**GOOD, "tuning": []}], "canary 1, tuning:"),
        ([{**GOOD, "tuning": {}}], "canary 1, tuning: Nothing is to be tried"),
        ([{**GOOD, "tuning": {"batch_size": "many"}}], "canary 1, tuning: requests per batch"),
        ([{**GOOD, "worker": ""}], "canary 1, worker:"),
        ([{**GOOD, "model": "digits"}], "canary 1, version: digits alone says nothing"),
        ([{**GOOD, "author": "ann"}], "canary 1 has 'author', which this version does not know"),
    ],
)
def test_a_payload_edited_by_hand_is_refused_with_the_value(rows, says):
    with pytest.raises(InvalidConfig) as refused:
        parse(7, {"canary": rows})
    assert says in str(refused.value)


# --- the admin ---


@pytest.fixture
def operator(client: Client) -> Client:
    user = User.objects.create_user("ann", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_tuning"))
    client.force_login(user)
    return client


FORM = {
    "worker": "worker_2", "batch_size": "64", "batch_wait_ms": "20", "batch_eager": "on", "cache_entries": "1000",
    "cache_mib": "256", "model": "", "version": "", "comment": "why not",
}  # fmt: skip


def test_the_page_starts_it_and_asks_before_it_ends_it(operator):
    assert "Try something on one worker first" in operator.get(PAGE).content.decode()
    page = operator.post(PAGE, FORM, follow=True).content.decode()
    assert "Now tried on worker_2: requests per batch 64." in page
    assert Canary.objects.get().tuning == {"batch_size": 64}
    assert (newest().author, newest().comment) == ("ann", "why not")
    asked = operator.post(f"{PAGE}promote/").content.decode()
    assert "All workers get what it has tried" in asked and Canary.objects.exists()
    sent = Form(asked).values | {"comment": "good"}
    page = operator.post(f"{PAGE}promote/", sent, follow=True).content.decode()
    assert "All workers get what worker_2 has tried" in page
    assert (Tuning.objects.get().batch_size, newest().comment) == (64, "good")
    assert "No worker tries anything now" in operator.post(f"{PAGE}abort/", follow=True).content.decode()


def test_what_is_promoted_is_what_was_seen(operator):
    canary.start("worker_2", {"batch_size": 64})
    seen = Form(operator.post(f"{PAGE}promote/").content.decode()).values
    canary.abort("bob")
    canary.start("worker_1", {"batch_size": 2}, "bob")
    page = operator.post(f"{PAGE}promote/", seen).content.decode()
    assert "What is tried has changed meanwhile: now worker_1 tries requests per batch 2." in page
    assert Canary.objects.exists() and Tuning.objects.get().batch_size not in (64, 2)
    operator.post(f"{PAGE}promote/", Form(page).values)
    assert not Canary.objects.exists() and Tuning.objects.get().batch_size == 2


def test_what_does_not_go_together_any_more_is_not_promoted(operator):
    canary.start("worker_2", {"cache_entries": 400_000})
    tuning = Tuning.objects.get()
    tuning.cache_mib = 4
    tuning.save()
    page = operator.post(f"{PAGE}promote/").content.decode()
    said = operator.post(f"{PAGE}promote/", Form(page).values, follow=True).content.decode()
    assert "Not everybody can get what worker_2 tries. 400,000 results do not fit into 4 MiB" in said
    assert Canary.objects.exists() and Tuning.objects.get().cache_entries != 400_000


def test_the_page_says_what_is_wrong_and_keeps_what_was_filled_in(operator):
    page = operator.post(PAGE, {**FORM, "batch_size": "many", "model": "<b>"}).content.decode()
    assert "&#x27;many&#x27; is no whole number" in page and "&lt;b&gt;" in page
    page = operator.post(PAGE, {**FORM, "batch_size": "32"}).content.decode()
    assert "Nothing was changed" in page and "why not" in page
    assert operator.get(f"{PAGE}abort/").status_code == 405
    assert operator.get(f"{PAGE}1/change/").url == PAGE


def test_who_may_not_change_the_tuning_can_only_look(client):
    user = User.objects.create_user("ben", is_staff=True)
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_canary"))
    canary.start("worker_2", {"batch_size": 64})
    page = client.get(PAGE).content.decode()
    assert "requests per batch 64" in page and "Promote" not in page
    assert client.post(PAGE, FORM).status_code == 403
    for step in ("promote", "abort"):
        assert client.post(f"{PAGE}{step}/", {"confirmed": "yes"}).status_code == 403
    assert Canary.objects.exists()


# --- the command line ---


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("canary", *arguments, gateway="http://127.0.0.1:9", stdout=out, stderr=StringIO())
    return out.getvalue()


def test_the_command_starts_shows_and_ends_it():
    said = run("start", "worker_2", "batch_size=64", "batch_eager=off")
    assert said.startswith("Now tried on worker_2: requests per batch 64")
    assert Canary.objects.get().author.startswith("cli:")
    assert "worker_2 tries requests per batch 64" in run("show")
    assert "All workers get what worker_2 has tried" in run("promote", "--yes", "--comment", "good")
    assert (Tuning.objects.get().batch_eager, newest().comment) == (False, "good")
    run("start", "worker_2", "cache_entries=5")
    assert "No longer tried on worker_2: entries per worker 5." in run("abort", "--yes")


def test_to_show_that_nothing_is_tried_is_no_error():
    assert run("show") == "No worker tries anything now.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("promote", "--yes"), "No worker tries anything now. Nothing has been changed."),
        (("start",), "name the worker that is to try it"),
        (("start", "worker_2", "batch_size"), "'batch_size' is no setting"),
        (("start", "worker_2", "colour=1"), "'colour' cannot be tried on one worker"),
        (("start", "worker_2", "batch_size=many"), "'many' is neither a number nor on or off"),
        (("start", "worker_2", "batch_size=9999"), "9999 is out of range"),
        (("start", "worker_2", "--model", "digits"), "names no version; write NAME/VERSION"),
        (("abort", "worker_2"), "takes no worker"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, says):
    with pytest.raises(CommandError) as refused:
        run(*arguments)
    assert says in str(refused.value)


def test_the_command_does_nothing_unasked(monkeypatch):
    canary.start("worker_2", {"batch_size": 64})
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(CommandError, match="add --yes"):
        run("promote")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(CommandError, match="nothing has been changed"):
        run("abort")
    assert Canary.objects.exists()


@pytest.mark.parametrize("count", [0, 100])
def test_the_page_asks_the_database_as_often_whatever_there_is(operator, django_assert_max_num_queries, count):
    for number in range(count):
        Worker.objects.create(name=f"other_{number}", host="127.0.0.1", port=9000 + number)
    operator.get(PAGE)  # the tuning's row is made with the first look
    with django_assert_max_num_queries(8):
        operator.get(PAGE)
    canary.start("worker_2", {"batch_size": 64})
    with django_assert_max_num_queries(8):
        operator.get(PAGE)
