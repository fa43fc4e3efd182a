"""SVG by hand: what every drawing has."""

from collections.abc import Iterable
from xml.sax.saxutils import escape

_STYLE = (
    "text { font: 13px sans-serif; fill: #777 } .title { font-weight: bold } "
    "rect { fill: #4a7db5 } line { stroke: #777 } .grid { stroke: #7774 } polyline { fill: none }"
)


def drawing(title: str, width: int, height: int, shapes: Iterable[str]) -> str:
    """A whole file. Its colours are to be seen on light and on dark paper."""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<text class="title" x="10" y="22">{escape(title)}</text>',
            *shapes,
            "</svg>",
            "",
        )
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
