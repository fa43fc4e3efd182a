"""What is printed is text: whatever a stranger wrote into an order or an event commands no terminal.

Control characters, and those that turn the direction of what follows, are shown as JSON has them: `\\u001b`.
"""

import io
import re
import shutil
import sys
from collections.abc import Iterable
from textwrap import wrap
from typing import Any, TextIO

from rich import console
from rich.segment import Segment

_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""All but tab and line feed."""


def harmless(text: str) -> str:
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def packed(parts: Iterable[str], width: int, indent: str = "") -> list[str]:
    """Writes parts beside each other, and on further lines, behind the indent, what there is no room for."""
    lines: list[str] = []
    for part in filter(None, parts):
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"{indent}{part}" if lines else part)
    return lines


def fitting(text: str, stream: TextIO, hanging: int = 4) -> str:
    """Breaks a line between words where the terminal would break it anywhere; what goes on below hangs.

    Where the stream is no terminal, as in a pipe, a line stays one: it is searched by line there. A word that
    is longer than the terminal is wide, as a path may be, stays whole.
    """
    columns = shutil.get_terminal_size().columns
    if not stream.isatty() or len(text) <= columns:
        return text
    return "\n".join(
        wrap(text, columns, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False)
    )


def print_line(text: str, hanging: int = 4) -> None:
    print(fitting(text, sys.stdout, hanging))


class Console(console.Console):
    """Rich's, whose own commands reach the terminal, and nobody else's."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


class _Printed:
    """A stream on which nothing but text gets out. A `Console` writes to the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        return self.rich_proxied_file.write(harmless(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


class _Unread(io.FileIO):
    """A pipe that nobody may read any more, as in `choreo verify | head`: what does not fit is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def print_text_alone() -> None:
    """For this process's standard output and standard error, from now on. A pipe's end ends nothing."""
    sys.stdout, sys.stderr = _Printed(_unread(sys.stdout)), _Printed(sys.stderr)


def _unread(stream: TextIO) -> TextIO:
    try:
        file = _Unread(stream.fileno(), "w", closefd=False)
    except io.UnsupportedOperation:
        return stream  # it is kept in memory: there is no pipe
    buffer = io.BufferedWriter(file)
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=stream.isatty())
