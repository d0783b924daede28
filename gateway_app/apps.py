"""The gateway as a Django app."""

from django.apps import AppConfig


class GatewayAppConfig(AppConfig):
    """Registers the system checks that a gateway needs."""

    name = "gateway_app"
    verbose_name = "Gateway"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from inference_site import checks

        checks.register_checks()
