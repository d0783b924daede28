"""What links tell whoever keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from inference_site.lib.catalog import Models

if TYPE_CHECKING:
    from gateway_app.streams.links import WorkerLink


class Owner(Protocol):
    """Whoever keeps links: the gateway."""

    def named(self, link: WorkerLink, node_id: str) -> None:
        """A worker that was given by its address alone has said its name."""

    def announced(self, link: WorkerLink, models: Models) -> None:
        """A worker says what models it has; first after each handshake."""

    def gone(self, link: WorkerLink, number: int) -> None:
        """A worker does not know this number of a model any more."""

    def lost(self, link: WorkerLink) -> None:
        """A worker is not connected any more."""

    def leaves(self, link: WorkerLink) -> None:
        """A worker is about to stop."""

    def handed_over(self, link: WorkerLink, payload: bytes) -> None:
        """A worker has sent what it has in its cache, or a part of it."""

    def can_do_without(self, link: WorkerLink) -> bool:
        """Whether others answer for each model that this worker has."""
