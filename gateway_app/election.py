"""Which version of a model answers, and by which file of each worker: decided by what the workers offer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from inference_site.lib.catalog import ModelInfo

Offers = Mapping[str, list[ModelInfo]]  # by worker, what it can be asked of one model


@dataclass(frozen=True, slots=True)
class Serving:
    """One version of a model that requests are sent to.

    Each of `numbers` and `digests` is by worker. Those have one digest, but for a worker that has no other.
    """

    info: ModelInfo
    numbers: Mapping[str, int]
    digests: Mapping[str, str]


def winner(present: str | None, judges: Offers, offers: Offers, loading: Collection[str]) -> str | None:
    """The version that answers for its model, by what those workers have that decide about a change; never an older one
    than until now while anybody has that one as current, or loads it."""
    if not judges:
        return present
    found = _choose(present, judges)
    if present is None or (found is not None and version_order(found) >= version_order(present)):
        return found
    return present if present in current(offers) or present in loading else found


def _choose(present: str | None, offers: Offers) -> str | None:
    """The highest version of which all have the same file; else the one that most workers can answer with, rather the
    one that does so now."""
    files_of = [files for found in offers.values() if (files := {(i.version, i.digest) for i in found if i.current})]
    everywhere = {version for version, _ in set.intersection(*files_of)} if files_of else set()
    versions = [{version for version, _ in files} for files in files_of]
    if present is not None and versions and all(present in each for each in versions):
        everywhere.add(present)  # one of them may have another file of it
    if everywhere:
        return max(everywhere, key=version_order)
    score = Counter(version for each in versions for version in each)
    if present is not None:
        score[present] = sum(any(info.version == present for info in found) for found in offers.values())
    score = +score
    if not score:
        return None
    return max(score, key=lambda version: (score[version], version == present, version_order(version)))


def serving(
    version: str,
    before: Serving | None,
    judges: Offers,
    offers: Offers,
    loading: Collection[str],
) -> Serving | None:
    """Who answers with which file of a version; `judges` are the workers that decide about a change, `loading` those
    that load another file of it: until they have, they answer with the one in force or not at all."""
    mine = {worker: [info for info in found if info.version == version] for worker, found in offers.items()}
    here = [info for found in mine.values() for info in found]
    if not here:
        return None if before is None else Serving(before.info, {}, {})
    favoured = Counter(info.digest for worker in judges for info in mine[worker] if info.current)
    favoured = favoured or Counter(info.digest for info in here if info.current)
    everywhere = set(favoured).intersection(
        *({info.digest for info in mine[worker]} for worker in judges if mine[worker])
    )
    digest = before.info.digest if before is not None else ""
    unsettled = any(mine.get(worker) for worker in loading)
    in_force = any(info.digest == digest for info in here) or (before is not None and unsettled)
    if (len(favoured) == len(everywhere) == 1 and not unsettled) or not in_force:
        ranked = favoured or Counter(info.digest for info in here)
        digest = min(ranked, key=lambda each: (-ranked[each], each))
    chosen: dict[str, ModelInfo] = {}
    for worker, found in mine.items():
        usable = [info for info in found if info.digest == digest]
        if not usable and worker not in loading:
            usable = [info for info in found if info.current]
        if usable:
            chosen[worker] = max(usable, key=lambda info: (info.current, info.number))
    info = next((info for info in chosen.values() if info.digest == digest), None)
    if info is None:  # nobody has it, and it is being loaded
        assert before is not None
        info = before.info
    return Serving(
        msgspec.structs.replace(info, number=0, current=True, reason=""),
        {worker: each.number for worker, each in sorted(chosen.items())},
        {worker: each.digest for worker, each in sorted(chosen.items())},
    )


def current(offers: Offers) -> set[str]:
    """The versions that are not just there until nobody uses them any more."""
    return {info.version for found in offers.values() for info in found if info.current}


def only(versions: Collection[str | None], offers: Offers) -> dict[str, list[ModelInfo]]:
    """What is offered of these versions."""
    return {worker: [info for info in found if info.version in versions] for worker, found in offers.items()}


def without(version: str, offers: Offers) -> dict[str, list[ModelInfo]]:
    """Of the workers that have others than this one."""
    left = {worker: [info for info in found if info.version != version] for worker, found in offers.items()}
    return {worker: found for worker, found in left.items() if found}


def version_order(version: str) -> tuple[int, str]:
    """Versions are numbers; what is none comes first."""
    return (int(version) if version.isdecimal() else -1), version
