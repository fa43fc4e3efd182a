"""Python's collector of cycles does not look through what is being imported, and is on again afterwards."""

import gc
from types import ModuleType

import pytest

from choreo.chassis import runtime, start
from choreo.cli import main


def test_a_verb_is_imported_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def import_module(name: str) -> ModuleType:
        seen.append(gc.isenabled())
        raise ImportError(name)

    monkeypatch.setattr(main, "import_module", import_module)
    with pytest.raises(ImportError):
        main.imported("doctor")
    assert (seen, gc.isenabled()) == ([False], True)


def test_a_service_runs_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(runtime, "serve", lambda name: seen.append((name, gc.isenabled())))
    start.serve("order")
    assert seen == [("order", True)]
