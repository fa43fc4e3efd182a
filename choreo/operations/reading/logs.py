"""What the parts of a system say, from the files under its home."""

import os
from pathlib import Path

_LOOK_BACK_BYTES = 1_000_000
"""For the last lines of a file, which may be 20 MB."""


def log_files(directory: Path) -> dict[str, Path]:
    """By part. What was moved away because a file grew is left out."""
    return {path.stem: path for path in sorted(directory.glob("*.log")) if "." not in path.stem}


class LogTail:
    """The last lines of a file, and then each that is added; also after it was emptied or made anew."""

    def __init__(self, path: Path, last: int) -> None:
        self._path, self._last = path, last
        self._read_to: int | None = None

    def new_lines(self) -> list[str]:
        """Those since the last call. A line that has no end yet comes with a later one."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            size = os.fstat(file.fileno()).st_size
            first = self._read_to is None
            begin = max(0, size - _LOOK_BACK_BYTES) if self._read_to is None else self._read_to
            begin = begin if begin <= size else 0
            file.seek(begin)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._read_to = begin + len(whole) + len(newline)
        lines = whole.decode(errors="replace").split("\n") if newline else []
        return lines[max(0, len(lines) - self._last) :] if first else lines
