"""The services there are, as today's code has them: their decisions and their rows, and nothing that runs."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from choreo.chassis.service import Service
from choreo.chassis.settings import SERVICES, Settings


def service_of(name: str, settings: Settings) -> Service[Any]:
    described: Service[Any] = _described(name).service(settings)
    return described


def services(settings: Settings) -> dict[str, Service[Any]]:
    """By name."""
    return {name: service_of(name, settings) for name in SERVICES}


def load_facts() -> None:
    """Makes every fact of every installed service known, for whoever reads what services wrote."""
    for name in SERVICES:
        if find_spec(f"{name}_service"):
            _described(name)


def _described(name: str) -> Any:
    return import_module(f"{name}_service.service")
