"""Delays over load: a line for each, on logarithmic scales."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from choreo.svg import drawing, text

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 660, 45, 360
_MARGIN = 1.3
"""By so much more than the loads the drawing is wide, at each side."""
_LEGEND, _ROW, _SAMPLE = _RIGHT + 25, 20, 30
_COLOURS = ("#4a7db5", "#3f9b62", "#c9803a", "#a5559a")


@dataclass(frozen=True)
class Curve:
    name: str
    points: Sequence[tuple[float, float]]
    """What is along, what is up; both above zero."""
    colour: int
    """Those of one colour belong together."""
    dashes: str = ""
    """As SVG has them; none is a line without a gap."""


def curves(title: str, along: str, up: str, drawn: Sequence[Curve]) -> str:
    """At least one of them has a point."""
    points = [point for curve in drawn for point in curve.points]
    loads = sorted({load for load, _ in points})
    low, high = floor(log10(min(y for _, y in points))), ceil(log10(max(y for _, y in points)))
    x = _scale(loads[0] / _MARGIN, loads[-1] * _MARGIN, _LEFT, _RIGHT)
    y = _scale(10.0**low, 10.0 ** max(high, low + 1), _BOTTOM, _TOP)
    shapes = [text(_LEFT - 8, _TOP - 8, up, "end"), text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, along, "middle")]
    for decade in (10.0**power for power in range(low, max(high, low + 1) + 1)):
        shapes += [
            _grid(_LEFT, y(decade), _RIGHT, y(decade)),
            text(_LEFT - 8, y(decade) + 4, f"{decade:g}", "end"),
        ]
    for load in loads:
        shapes += [_grid(x(load), _TOP, x(load), _BOTTOM), text(x(load), _BOTTOM + 18, f"{load:g}", "middle")]
    for number, curve in enumerate(drawn):
        places = [(x(load), y(delay)) for load, delay in curve.points]
        shapes += _curve(curve, places, _TOP + 10 + _ROW * number)
    return drawing(title, _WIDTH, _HEIGHT, shapes)


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """Where a number is to be drawn, of numbers from `low` to `high`."""
    return lambda number: begin + (end - begin) * log10(number / low) / log10(high / low)


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _curve(curve: Curve, places: Sequence[tuple[float, float]], row: float) -> Iterator[str]:
    """And its sample and name in the legend."""
    colour = _COLOURS[curve.colour % len(_COLOURS)]
    stroke = f'stroke="{colour}" stroke-width="2"' + (
        f' stroke-dasharray="{curve.dashes}"' if curve.dashes else ""
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{line}" {stroke}/>'
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
    yield f'<polyline points="{_LEGEND},{row} {_LEGEND + _SAMPLE},{row}" {stroke}/>'
    yield text(_LEGEND + _SAMPLE + 8, row + 4, curve.name)
