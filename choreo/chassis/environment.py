"""What else stands in a process's environment, and would reach into its clients."""

import os
import re
from pathlib import Path

from dotenv import dotenv_values

_SETTING = re.compile(
    r"CHOREO_\w+|(\w+_)?KAFKA_\w+|\w+_DATABASE_URL|SMTP_URL|OTEL_EXPORTER_OTLP_(TRACES_)?(ENDPOINT|HEADERS)"
)
"""No file in somebody's directory says which programs and libraries are loaded."""


def traces_endpoint() -> str | None:
    """Where traces are to be exported to, as OpenTelemetry's SDK finds it; None where nobody named any."""
    names = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    return next(filter(None, map(os.environ.get, names)), None)


def ignore_libpq_variables() -> None:
    """To be called when a process begins. What a session needs is in its URL; libpq would take the rest from
    `PGPORT`, `PGOPTIONS`, `PGDATESTYLE` and some thirty more, meant for somebody's psql.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def read_env_file() -> None:
    """Takes settings from `.env`, beneath those of the environment, a service's own as `CHOREO_…`."""
    path = Path(os.environ.get("CHOREO_ENV_FILE", ".env"))
    for name, value in (dotenv_values(path) if path.is_file() else {}).items():
        if value is not None and _SETTING.fullmatch(name):
            os.environ.setdefault(name, value)


CHOSEN_NOW = "chosen now"
"""The context in which a setting from the environment is validated, and one of a recording is not."""
