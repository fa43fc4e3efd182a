"""Filters as a URL has them, and the options of the verb that say the same. Nothing in them is evaluated."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast

from fastapi import Query

from choreo.errors import UsageError
from choreo.operations.reading.flows import time_of
from choreo.replay.trace.flows import FlowFilter, State, minor_units
from choreo.replay.trace.log import RecordFilter, header_of

Limit = Annotated[int, Query(ge=1, le=200)]


class LogOptions:
    def __init__(
        self,
        key: str = "",
        type: str = "",
        header: Annotated[Sequence[str], Query()] = (),
        limit: Limit = 50,
    ) -> None:
        self.limit = limit
        headers = [text for text in header if text.strip()]
        self.filter = RecordFilter(
            key=key.strip() or None, type=type.strip() or None, headers=dict(map(header_of, headers))
        )
        told = [("--key", self.filter.key), ("--type", self.filter.type)]
        self.options = _options(told + [("--header", text) for text in headers])


def flow_filter(told: Mapping[str, str]) -> tuple[FlowFilter, list[str]]:
    """Returns it, with the options of `choreo flows` that say the same. Raises `UsageError`, `NoMoment`."""
    given = {name: text.strip() for name, text in told.items() if text.strip()}
    filter = FlowFilter(
        state=cast(State, given["state"]) if "state" in given else None,
        outcome=given.get("outcome"),
        amount=minor_units(given["amount"]) if "amount" in given else None,
        since=time_of(given["since"]) if "since" in given else None,
        until=time_of(given["until"]) if "until" in given else None,
        slower_ms=_number(given["slower"]) if "slower" in given else None,
    )
    return filter, _options((f"--{name}", text) for name, text in given.items())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text} is no number of milliseconds.") from None


def _options(told: Iterable[tuple[str, str | None]]) -> list[str]:
    return [word for name, value in told if value is not None for word in (name, value)]
