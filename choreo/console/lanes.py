"""A flow as a drawing: a lane for each service, a bar for each hop, what is missing dashed.

Made of the dictionary that `choreo trace --json` prints. Places are in the units of the SVG's view box.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 1000
LABEL_WIDTH = 110
LANE_HEIGHT = 34
_BAR_HEIGHT = 14
_LEAST_WIDTH = 2.0
_HEARD_HOPS = ("broker", "call", "consumer", "transaction")
_DECIDED_HOPS = ("waited", "queue", "consumer")
"""Those before the decision, the first first."""


@dataclass(frozen=True, slots=True)
class Bar:
    lane: int
    kind: str
    """A hop, or `missing`."""
    x: float
    y: float
    width: float
    says: str
    anchor: str = ""
    """Of the event it is about."""
    height: int = _BAR_HEIGHT


@dataclass(frozen=True, slots=True)
class Lanes:
    services: Sequence[str]
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    """Where there is a line, and what it says."""

    @property
    def height(self) -> int:
        return LANE_HEIGHT * (len(self.services) + 1)


@dataclass(frozen=True, slots=True)
class _Span:
    """A bar in milliseconds from the flow's beginning."""

    service: str
    kind: str
    begin: float
    length: float
    says: str
    anchor: str


def lanes_of(flow: dict[str, Any]) -> Lanes:
    """`flow` is one of the flows of `choreo trace --json`."""
    spans = [*_missing(flow["missing"], 0.0, "")]
    for event in flow["events"]:
        spans += _of_event(event)
    services = list(dict.fromkeys(span.service for span in spans))
    end = max((span.begin + span.length for span in spans), default=0.0) or 1.0
    scale = (WIDTH - LABEL_WIDTH - 10) / end
    bars = [
        Bar(
            services.index(span.service),
            span.kind,
            round(LABEL_WIDTH + span.begin * scale, 1),
            LANE_HEIGHT * services.index(span.service) + (LANE_HEIGHT - _BAR_HEIGHT) / 2,
            round(max(_LEAST_WIDTH, span.length * scale), 1),
            span.says,
            span.anchor,
        )
        for span in spans
    ]
    ticks = [(round(LABEL_WIDTH + part * end * scale, 1), _time(part * end)) for part in (0, 0.5, 1)]
    return Lanes(services, bars, ticks)


def _time(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.0f} s"


def _of_event(event: dict[str, Any]) -> Iterator[_Span]:
    decided, after = event["decided"] or {"service": event["source"]}, event["after_ms"]
    anchor, name = str(event["id"]), event["type"]
    known = [(hop, decided.get(f"{hop}_ms")) for hop in _DECIDED_HOPS]
    begin = max(0.0, after - sum(ms or 0.0 for _, ms in known))
    for hop, ms in known:
        if ms is not None:
            yield _Span(event["source"], hop, begin, ms, f"{name}: {hop} {ms:.1f} ms", anchor)
            begin += ms
    begin = after
    for hop in ("transaction", "outbox"):
        ms = decided.get(f"{hop}_ms") or 0.0
        yield _Span(event["source"], hop, begin, ms, f"{name}: {hop} {ms:.1f} ms", anchor)
        begin += ms
    for heard in event["heard"]:
        at = begin
        for hop in _HEARD_HOPS:
            if (ms := heard.get(f"{hop}_ms")) is not None:
                told = f"{name}, {heard['service']} {heard['outcome']}: {hop} {ms:.1f} ms"
                yield _Span(heard["service"], hop, at, ms, told, anchor)
                at += ms
    yield from _missing(event["missing"], begin, anchor)
    for child in event["followed_by"]:
        yield from _of_event(child)


def _missing(gaps: Sequence[dict[str, Any]], begin: float, anchor: str) -> Iterator[_Span]:
    for gap in gaps:
        expected = " or ".join(gap["expects"]) or "nothing"
        says = f"{expected} is {gap['state']}: {gap['says']}"
        yield _Span(gap["service"], "missing", begin, max(1.0, begin / 4), says, anchor)
