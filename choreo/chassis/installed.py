"""The packages that are services of this installation, found by their entry points.

Each names, in the group `choreo.services`, the function that describes it. A package that is named and is not
there is no service of this installation: choreo may be installed without the shop it comes from.
"""

import sys
import tomllib
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from typing import Any

from choreo.errors import Unavailable

GROUP = "choreo.services"
_CHECKOUT = Path(__file__).parents[2] / "pyproject.toml"
"""Of an installation that is this very folder; what is not there is not asked."""


def package_of(service: str) -> str:
    """Raises `Unavailable` where it is not installed."""
    return _package(entry_point(service))


def room_of(service: str, room: str) -> Any:
    """The module of this name in the service's package. Raises `Unavailable` where it is not installed."""
    return imported(f"{package_of(service)}.{room}")


@lru_cache(maxsize=1)
def named() -> dict[str, EntryPoint]:
    """Those whose package is here. Raises `Unavailable` where what is installed is not what is here."""
    found = entry_points(group=GROUP)
    there = {(entry.name, entry.value) for entry in found}
    if late := [name for name, value in entry_points_of(_CHECKOUT).items() if (name, value) not in there]:
        raise Unavailable(
            f"The {' and '.join(late)} service is not installed as pyproject.toml names it: run "
            "`make .venv/installed`, or `pip install --no-deps -e .`."
        )
    here: dict[str, EntryPoint] = {}
    for entry in found:
        if find_spec(_package(entry)) and (other := here.setdefault(entry.name, entry)).value != entry.value:
            raise Unavailable(
                f"Two packages have a service {entry.name}, {other.value} and {entry.value}: uninstall one."
            )
    return here


def entry_points_of(project: Path) -> dict[str, str]:
    """Where a distribution's own services are, by its pyproject.toml; none where there is no such file."""
    if not project.exists():
        return {}
    told = tomllib.loads(project.read_text()).get("project", {})
    return dict(told.get("entry-points", {}).get(GROUP, {}))


def entry_point(service: str) -> EntryPoint:
    if service not in named():
        raise Unavailable(
            f"There is no {service} service here: install its package beside choreo, or run this where it "
            "can be imported."
        )
    return named()[service]


def require_services(names: Iterable[str]) -> None:
    """Raises `Unavailable` where one is not installed."""
    for name in names:
        entry_point(name)


def _package(entry: EntryPoint) -> str:
    return entry.module.rpartition(".")[0]


def imported(module: str) -> Any:
    """Imports what somebody wrote. Raises `Unavailable`, naming the line, where that does not work."""
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no answer of a verb's
            return import_module(module)
    except SyntaxError as error:
        at = f"{error.filename}:{error.lineno}"
        raise Unavailable(f"{module} cannot be imported: {error.msg} at {at}.") from error
    except (Exception, SystemExit) as error:
        at = next(
            f"{frame.filename}:{frame.lineno}"
            for frame in reversed(extract_tb(error.__traceback__))
            if not frame.filename.startswith("<")
        )
        raise Unavailable(f"{module} cannot be imported: {error!r} at {at}.") from error
