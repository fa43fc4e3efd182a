"""The services and topics as a drawing: what is published goes down, what is heard goes up, the more goes
through the wider the line.

Made of what `traffic` and `recorded` return. Places are in the units of the SVG's view box.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_COLUMN = 230
_BOX, _BOX_HEIGHT = 190, 90
_TOP, _BOTTOM = 8, 235
_MOST, _LEAST = 12.0, 1.2
"""Widths of lines."""


@dataclass(frozen=True, slots=True)
class Box:
    name: str
    x: float
    y: float
    lines: Sequence[str]
    is_topic: bool
    troubled: bool


@dataclass(frozen=True, slots=True)
class Line:
    path: str
    kind: str
    """`publishes` or `hears`."""
    width: float
    says: str
    behind: bool = False
    """Something is still to be read."""


@dataclass(frozen=True, slots=True)
class Map:
    width: int
    boxes: Sequence[Box]
    lines: Sequence[Line]
    unit: str


def rates(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns records and inputs per second since the look before: of topics, services, and what each hears;
    None where there was none.
    """
    seconds = _seconds(before, now) if before else 0.0

    def rate(*path: str) -> float | None:
        begin, end = _at(before, path), _at(now, path)
        if seconds <= 0 or begin is None or end is None:
            return None
        return round(max(0, end - begin) / seconds, 2)

    return {
        "topics": {topic: rate("topics", topic, "records") for topic in now["topics"]},
        "services": {
            name: {
                "inputs": rate("services", name, "inputs"),
                "hears": {topic: rate("services", name, "hears", topic, "read") for topic in there["hears"]},
            }
            for name, there in now["services"].items()
        },
    }


def map_of(traffic: Mapping[str, Any]) -> Map:
    """`traffic` with `rates`; without, as of a recording, all that ever went through is drawn."""
    told, per_second = traffic.get("rates"), "rates" in traffic
    services, topics = traffic["services"], traffic["topics"]
    columns = _columns(services, topics)
    boxes = [_service(name, there, told, columns[name]) for name, there in services.items()]
    boxes += [_topic(name, there, told, columns[name]) for name, there in topics.items()]

    def through(topic: str, hearer: str | None = None) -> float | None:
        if told is None:
            there = topics[topic]["records"] if hearer is None else services[hearer]["hears"][topic]["read"]
            return float(there)
        found = told["topics"].get(topic) if hearer is None else told["services"][hearer]["hears"][topic]
        return None if found is None else float(found)

    most = max((through(topic) or 0.0 for topic in topics), default=0.0)
    unit = "/s" if per_second else " records"
    lines = []
    for name, there in services.items():
        if (topic := there["publishes"]) in topics:
            says = f"{name} publishes {topic}: {_number(through(topic))}{unit}"
            path = _straight(columns[name], columns[topic])
            lines.append(Line(path, "publishes", _width(through(topic), most), says))
        for topic, hearing in there["hears"].items():
            lag = hearing["lag"] if hearing else 0
            says = f"{name} hears {topic}: {_number(through(topic, name))}{unit}" + (
                f", lag {lag}" if lag else ""
            )
            path = _curve(columns[topic], columns[name])
            lines.append(Line(path, "hears", _width(through(topic, name), most), says, behind=lag > 0))
    return Map(_COLUMN * (1 + max(columns.values(), default=0)), boxes, lines, unit)


def age(since: str | None, at: str) -> str:
    """Writes how long ago that was, briefly; nothing where it is no time."""
    try:
        seconds = max(0.0, (_time(at) - _time(since or "")).total_seconds())
    except ValueError:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _columns(services: Mapping[str, Any], topics: Mapping[str, Any]) -> dict[str, int]:
    """Each topic stands under who publishes it."""
    columns = {name: number for number, name in enumerate(services)}
    columns |= {there["publishes"]: columns[name] for name, there in services.items()}
    others = [topic for topic in topics if topic not in columns]
    return columns | {topic: number for number, topic in enumerate(others, start=len(services))}


def _service(name: str, there: Mapping[str, Any], told: Mapping[str, Any] | None, column: int) -> Box:
    lines = []
    if told is not None:
        lines.append(f"{_number(told['services'][name]['inputs'])} inputs/s")
    elif there.get("inputs") is not None:
        lines.append(f"{there['inputs']} inputs")
    counts = [
        f"{what} {there[what]['count']}" for what in ("unpublished", "waiting", "parked") if what in there
    ]
    late = [job for job, state in there.get("jobs", {}).items() if not state["ready"]]
    lines.append(f"held up: {', '.join(late)}" if late else ", ".join(counts[:2]))
    lines.append(counts[2] if len(counts) > 2 and not late else "")
    troubled = bool(late) or bool(there.get("parked", {}).get("count")) or there.get("inputs", 0) is None
    return Box(
        name, column * _COLUMN + (_COLUMN - _BOX) / 2, _TOP, list(filter(None, lines)), False, troubled
    )


def _topic(name: str, there: Mapping[str, Any], told: Mapping[str, Any] | None, column: int) -> Box:
    lines = [f"{there['records']} records"]
    if told is not None:
        lines.insert(0, f"{_number(told['topics'].get(name))}/s")
    return Box(name, column * _COLUMN + (_COLUMN - _BOX) / 2, _BOTTOM, lines, True, False)


def _straight(upper: int, lower: int) -> str:
    x, to = (upper + 0.5) * _COLUMN - 75, (lower + 0.5) * _COLUMN - 75
    return f"M{x:.0f} {_TOP + _BOX_HEIGHT} L{to:.0f} {_BOTTOM}"


def _curve(topic: int, service: int) -> str:
    """From a topic's upper edge to a service's lower one; each pair has a place of its own on both."""
    begin = (topic + 0.5) * _COLUMN + _spread(service - topic)
    end = (service + 0.5) * _COLUMN + _spread(topic - service)
    low, high = _BOTTOM, _TOP + _BOX_HEIGHT
    return f"M{begin:.0f} {low} C{begin:.0f} {low - 70} {end:.0f} {high + 70} {end:.0f} {high}"


def _spread(distance: int) -> float:
    return max(-55, min(85, 15 + 18 * distance))


def _width(through: float | None, most: float) -> float:
    """Ten times as much is seen as more, and not as ten times as wide."""
    if not through or not most:
        return _LEAST
    return round(_LEAST + (_MOST - _LEAST) * math.log1p(through) / math.log1p(max(most, 1.0)), 1)


def _number(rate: float | None) -> str:
    if rate is None:
        return "…"
    return f"{rate:.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"


def _at(look: Any, path: Sequence[str]) -> int | None:
    for name in path:
        look = None if look is None else look.get(name)
    return None if look is None else int(look)


def _seconds(before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    return (_time(now["at"]) - _time(before["at"])).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
