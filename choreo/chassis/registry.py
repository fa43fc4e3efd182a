"""The shop beside choreo, as today's code has it: its services and facts. Nobody else looks for it."""

import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from traceback import extract_tb
from typing import Any

from choreo.chassis.service import Service
from choreo.chassis.settings import SERVICES, Settings
from choreo.errors import Unavailable
from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.envelope import Event
from choreo.message.fact import Fact


def service_of(name: str, settings: Settings) -> Service[Any]:
    described: Service[Any] = room_of(name, "service").service(settings)
    return described


def services(settings: Settings) -> dict[str, Service[Any]]:
    """By name. Raises `Unavailable` where one is not installed."""
    return {name: service_of(name, settings) for name in SERVICES}


def load_facts() -> None:
    """Makes every fact of every installed service known, for whoever reads what services wrote."""
    for name in SERVICES:
        if find_spec(f"{name}_service"):
            _imported(f"{name}_service.service")


def examples() -> dict[str, Event[Fact]]:
    """By type: from the module `examples` beside the facts, where there is one."""
    load_facts()
    packages = sorted({fact.__module__.rpartition(".")[0] for fact in FACT_OF_TYPE.values()})
    told = [import_module(f"{name}.examples") for name in packages if find_spec(f"{name}.examples")]
    return {event.type: event for module in told for event in module.story()}


def room_of(service: str, room: str) -> Any:
    """The module of this name in the service's package. Raises `Unavailable` where it is not installed."""
    require_installed(service)
    return _imported(f"{service}_service.{room}")


def _imported(module: str) -> Any:
    """Imports what somebody wrote. Raises `Unavailable`, naming the line, where that does not work."""
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no answer of a verb's
            return import_module(module)
    except SyntaxError as error:
        at = f"{error.filename}:{error.lineno}"
        raise Unavailable(f"{module} cannot be imported: {error.msg} at {at}.") from error
    except Exception as error:
        at = next(
            f"{frame.filename}:{frame.lineno}"
            for frame in reversed(extract_tb(error.__traceback__))
            if not frame.filename.startswith("<")
        )
        raise Unavailable(f"{module} cannot be imported: {error!r} at {at}.") from error


def require_installed(*names: str) -> None:
    """Raises `Unavailable` where one of these services is not there."""
    for name in names:
        if find_spec(f"{name}_service") is None:
            raise Unavailable(
                f"There is no {name} service here: install the package {name}_service beside choreo, or run "
                "this where it can be imported."
            )
