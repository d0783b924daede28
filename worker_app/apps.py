"""The worker as a Django app."""

from django.apps import AppConfig


class WorkerAppConfig(AppConfig):
    """Registers the system checks that a worker needs."""

    name = "worker_app"
    verbose_name = "Worker"

    def ready(self) -> None:
        from inference_site import checks

        checks.register_checks()
