"""A bar for each, drawn as SVG by hand."""

from collections.abc import Mapping, Sequence
from statistics import median
from xml.sax.saxutils import escape

_WIDTH, _LABELS, _FIGURES = 720, 120, 60
_ROW, _BAR, _TOP = 30, 18, 40
_STYLE = (
    "text { font: 13px sans-serif; fill: #777 } .title { font-weight: bold } "
    "rect { fill: #4a7db5 } line { stroke: #777 }"
)


def bars(title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """A bar as long as the median, and a line from the least to the most. At least one number a row."""
    most = max((max(numbers) for numbers in rows.values()), default=1.0) or 1.0
    scale = (_WIDTH - _LABELS - _FIGURES) / most
    height = _TOP + _ROW * len(rows) + 10
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
    ]
    for number, (name, numbers) in enumerate(rows.items()):
        drawn += _bar(_TOP + _ROW * number, name, numbers, scale)
    return "\n".join((*drawn, "</svg>", ""))


def _bar(top: int, name: str, numbers: Sequence[float], scale: float) -> list[str]:
    middle, base = top + _BAR / 2, top + _BAR - 4
    least, most, long = (_LABELS + scale * number for number in (min(numbers), max(numbers), median(numbers)))
    return [
        f'<text x="{_LABELS - 8}" y="{base}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{_LABELS}" y="{top}" width="{long - _LABELS:.1f}" height="{_BAR}"/>',
        f'<line x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}"/>',
        f'<text x="{most + 6:.1f}" y="{base}">{median(numbers):.0f}</text>',
    ]
