#!/usr/bin/env python
"""Django's command line; decides whether this process is a gateway or a worker before the settings are read."""

import os
import sys


def main() -> None:
    """Run one management command; a wrong setting ends it with one sentence instead of a traceback."""
    mode = "worker" if "runnode" in sys.argv[1:2] else "gateway"
    os.environ.setdefault("INFERENCE_MODE", mode)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inference_site.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError as exc:
        sys.exit(
            f"Django cannot be imported by {sys.executable} ({exc}). Run `make run`: it makes .venv with all that is"
            " needed and starts the system. To use this command itself afterwards: .venv/bin/python manage.py ..."
        )
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(f"Wrong setting: {exc}")


if __name__ == "__main__":
    main()
