"""What one worker tries out before the others get it, as the data plane sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from inference_site.lib.catalog import ModelSettings
from inference_site.lib.nodesettings import NodeSettings

_USUAL = ModelSettings()


@dataclass(frozen=True, slots=True)
class Trial:
    """A canary: settings that one worker has otherwise than the rest, and a version that it alone answers with.

    `tuning` is by the names of Tuning. Its settings are to that worker what the tuning is: what a model has of its own
    comes before both, so that promotion changes nothing that was not tried.
    """

    worker: str
    tuning: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    version: str = ""

    def over(self, node: NodeSettings) -> NodeSettings:
        """These settings as its worker has them."""
        own = {name: value for name, value in self.tuning.items() if name != "cache_mib"}
        if "cache_mib" in self.tuning:
            own["cache_bytes"] = self.tuning["cache_mib"] * 2**20
        if self.tries(node.models):
            wish = node.models[self.model]
            more = msgspec.structs.replace(wish, versions=(*wish.versions, self.version))
            own["models"] = {**node.models, self.model: more}
        return msgspec.structs.replace(node, **own)

    def tries(self, models: Mapping[str, ModelSettings]) -> bool:
        """Whether there is a version to try: another one than all workers are told to load.

        Where they load the newest, whichever that is, nothing would keep the version from the others.
        """
        wish = models.get(self.model, _USUAL)
        return bool(self.model and wish.loaded and wish.versions) and self.version not in wish.versions
