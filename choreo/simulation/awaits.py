"""Where a process was when it was killed: at which awaits of the code that the simulation plays."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from choreo.chassis.installed import room_of
from choreo.chassis.kafka import catch_up, consumer, handover, partition_producer, relay, topic_log
from choreo.chassis.transaction import kernel, transaction

ROOT = Path(__file__).parents[2]


@cache
def all_awaits() -> tuple[str, ...]:
    """`file:line` of each, in the order of files and lines."""
    rooms = [
        ("notification", "mailer"),
        ("notification", "leases"),
        ("order", "expiry"),
        ("order", "admission"),
    ]
    modules = [kernel, transaction, relay, partition_producer, consumer, handover, topic_log, catch_up]
    return tuple(
        f"{_shown(path)}:{line}"
        for module in (*modules, *(room_of(*room) for room in rooms))
        for path in [module.__file__]
        for line in sorted(set(_lines(path).values()))
    )


@cache
def _lines(path: str) -> dict[int, int]:
    """By line of an await that line on which it begins."""
    found: dict[int, int] = {}
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.Await):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line] = min(node.lineno, found.get(line, node.lineno))
    return found


def waits_at(coroutines: Iterable[Any]) -> Iterator[str]:
    """The awaits at which these are suspended, each from the outermost to the innermost."""
    for coroutine in coroutines:
        inner = coroutine
        while inner is not None:
            frame = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None)
            if frame and (place := _place(frame.f_code.co_filename, frame.f_lineno)):
                yield place
            inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)


@cache
def _place(path: str, line: int) -> str | None:
    """None: of the simulation itself, or of a library."""
    if "simulation" in path or ".venv" in path or not path.startswith(str(ROOT)):
        return None
    return f"{_shown(path)}:{_lines(path).get(line, line)}"


def _shown(path: str | None) -> str:
    return str(Path(path or "").relative_to(ROOT))
