"""Which line of a service's code decided something: found by taking the step once more, and watching."""

import sys
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from types import FrameType
from typing import Any

from choreo.chassis.transaction import step as kernel_step
from choreo.message.fact import Fact
from choreo.replay.engine.in_memory_service import Taken

_ROOT = Path(__file__).parents[3]
_CHASSIS = tuple(str(_ROOT / room) for room in ("choreo", "events"))
_STEP = kernel_step.__file__


def decided_at(taken: Taken[Any], fact: Fact | None) -> str | None:
    """File and line that gave this fact; without one, what the last handler answered that was asked.

    None where no handler ran.
    """
    gave: list[str] = []
    answers: dict[str, str] = {}
    returned: list[tuple[Any, str]] = []

    def watch(frame: FrameType, happened: str, value: Any) -> None:
        if happened != "return" or not _is_ours(frame.f_code.co_filename):
            return
        if fact is not None and (value == fact if isinstance(value, Fact) else _is_in(fact, value)):
            gave.append(_place(frame))
        returned.append((value, _place(frame)))
        if frame.f_back is not None and frame.f_back.f_code.co_filename == _STEP:
            answers[frame.f_code.co_name] = next(place for other, place in returned if other is value)
            returned.clear()

    _watched(taken.run, watch)
    if gave:
        return gave[0]
    return answers.get("decide") or next(reversed(answers.values()), None)


def raised_at(error: BaseException) -> str | None:
    """The last line of a service's own code on the way of this error."""
    frames = [frame for frame in extract_tb(error.__traceback__) if _is_ours(frame.filename)]
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else None


def _watched(run: Callable[[], object], watch: Callable[[FrameType, str, Any], None]) -> None:
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    except Exception:  # it is told elsewhere what it raised
        pass
    finally:
        sys.setprofile(before)


def _is_in(fact: Fact, value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, Fact) and one == fact for one in value)


def _is_ours(filename: str) -> bool:
    return (
        filename.startswith(str(_ROOT))
        and not filename.startswith(_CHASSIS)
        and "site-packages" not in filename
    )


def _place(frame: FrameType) -> str:
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


def _short(filename: str) -> str:
    return str(Path(filename).relative_to(_ROOT))
