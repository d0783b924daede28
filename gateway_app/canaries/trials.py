"""Which model is asked while one worker tries a version of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway_app.canaries.canarymodel import CanaryCounts, CanaryModel, Trying
from gateway_app.canaries.trial import Trial
from inference_site.lib.catalog import ModelSettings

if TYPE_CHECKING:
    from gateway_app.catalog import Key
    from gateway_app.core.call import Owners
    from gateway_app.served import ServedModel


class FirstOf:
    """Owners among whom one comes first, whatever the key: it alone has the version that it tries."""

    def __init__(self, worker: str, all_owners: Owners) -> None:
        self.all_owners = all_owners
        self._worker = worker

    @property
    def weights(self) -> Mapping[str, float]:
        """As of Owners."""
        return self.all_owners.weights

    def owners(self, key: int) -> tuple[str, ...]:
        """As of Owners."""
        return self._worker, *(name for name in self.all_owners.owners(key) if name != self._worker)


class Trials:
    """Puts a CanaryModel where a model is found without a version, as long as one worker tries one of its versions.

    Not safe for concurrent access.
    """

    def __init__(self) -> None:
        self.trial: Trial | None = None
        self.trying: dict[Trying, None] = {}  # asks that a version has which is tried
        self.counts = CanaryCounts()
        self._promoted_beside = ""  # the version that answers until the one that was tried does; "": not promoted

    def follow(self, trial: Trial | None, settings: Mapping[str, ModelSettings], newest: Mapping[str, str]) -> None:
        """What one worker tries from now on; `settings` are those of all workers, `newest` the versions that answer.

        A version that all are to load now goes on being tried until it answers for its model: who has had its answer
        does not get the one before it again.
        """
        before = self.trial
        if trial is not None and not trial.tries(settings):
            trial = None
        if before is not None and trial is None:
            wanted = settings.get(before.model, ModelSettings())
            if wanted.loaded and before.version in wanted.versions:
                self._promoted_beside = newest.get(before.model, "")
                return
        if trial != before:
            self.trial, self.counts, self._promoted_beside = trial, CanaryCounts(), ""

    def tick(self, now: float) -> None:
        """Lets time pass: to be called some tens of times a second."""
        for each in tuple(self.trying):
            each.look(now)

    def answering(
        self, served: Mapping[Key, ServedModel], newest: Mapping[str, str]
    ) -> dict[str, ServedModel | CanaryModel]:
        """By name, what is to be asked for a model without a version."""
        found: dict[str, ServedModel | CanaryModel] = {name: served[name, each] for name, each in newest.items()}
        for each in self.trying:
            each.follow(served, newest)
        for model in served.values():
            router = model.router
            router.replaceable = False
            if isinstance(router.ring, FirstOf):
                router.ring = router.ring.all_owners
        trial = self.trial
        if trial is None or trial.model not in newest:
            return found
        present = newest[trial.model]
        if trial.version == present or (self._promoted_beside and self._promoted_beside != present):
            self.trial = None
            return found
        canary = served.get((trial.model, trial.version))
        if canary is not None:
            canary.router.replaceable = True
            if trial.worker in canary.router.ring.weights:
                canary.router.ring = FirstOf(trial.worker, canary.router.ring)
            stable = served[trial.model, present]
            found[trial.model] = CanaryModel(stable, canary, trial.worker, self.trying, self.counts)
        return found
