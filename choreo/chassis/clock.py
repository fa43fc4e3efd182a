"""The one place that reads the clock. Everything else is told the time."""

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)
