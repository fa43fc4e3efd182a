"""A bar for each."""

from collections.abc import Mapping, Sequence
from statistics import median

from choreo.svg import drawing, text

_WIDTH, _LABELS, _FIGURES = 720, 120, 60
_ROW, _BAR, _TOP = 30, 18, 40


def bars(title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """A bar as long as the median, and a line from the least to the most. At least one number a row."""
    most = max((max(numbers) for numbers in rows.values()), default=1.0) or 1.0
    scale = (_WIDTH - _LABELS - _FIGURES) / most
    shapes: list[str] = []
    for number, (name, numbers) in enumerate(rows.items()):
        shapes += _bar(_TOP + _ROW * number, name, numbers, scale)
    return drawing(title, _WIDTH, _TOP + _ROW * len(rows) + 10, shapes)


def _bar(top: int, name: str, numbers: Sequence[float], scale: float) -> list[str]:
    middle, base = top + _BAR / 2, top + _BAR - 4
    least, most, long = (_LABELS + scale * number for number in (min(numbers), max(numbers), median(numbers)))
    return [
        text(_LABELS - 8, base, name, "end"),
        f'<rect x="{_LABELS}" y="{top}" width="{long - _LABELS:.1f}" height="{_BAR}"/>',
        f'<line x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}"/>',
        text(most + 6, base, f"{median(numbers):.0f}"),
    ]
