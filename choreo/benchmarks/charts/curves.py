"""Delays over load: a line for each, on a logarithmic scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from choreo.benchmarks.charts.svg import drawing, text

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 660, 45, 360
_LEGEND, _ROW, _SAMPLE = _RIGHT + 25, 20, 30
_COLOURS = ("#4a7db5", "#3f9b62", "#c9803a", "#a5559a")


@dataclass(frozen=True)
class Curve:
    name: str
    points: Sequence[tuple[float, float]]
    """What is along, what is up: the latter above zero."""
    colour: int
    """Those of one colour belong together."""
    dashes: str = ""
    """As SVG has them; none is a line without a gap."""


def curves(title: str, along: str, up: str, drawn: Sequence[Curve]) -> str:
    """At least one of them has a point."""
    points = [point for curve in drawn for point in curve.points]
    most = max(x for x, _ in points) * 1.05 or 1.0
    low, high = floor(log10(min(y for _, y in points))), ceil(log10(max(y for _, y in points)))
    high = max(high, low + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        share = (log10(y) - low) / (high - low)
        return _LEFT + x / most * (_RIGHT - _LEFT), _BOTTOM - share * (_BOTTOM - _TOP)

    shapes = [text(_LEFT, _TOP - 8, up, "end"), text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, along, "middle")]
    for decade in range(low, high + 1):
        _, y = place(0, 10.0**decade)
        shapes += [f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}"/>']
        shapes += [text(_LEFT - 8, y + 4, f"{10.0**decade:g}", "end")]
    for x in sorted({x for x, _ in points}):
        at, _ = place(x, 10.0**low)
        shapes += [f'<line class="grid" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_BOTTOM}"/>']
        shapes += [text(at, _BOTTOM + 18, f"{x:g}", "middle")]
    for number, curve in enumerate(drawn):
        shapes += _curve(curve, [place(*point) for point in curve.points], _TOP + 10 + _ROW * number)
    return drawing(title, _WIDTH, _HEIGHT, shapes)


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
