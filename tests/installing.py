"""A service of somebody else's is installed beside ours, as pip would, for as long as a test takes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from choreo.chassis import installed
from choreo.chassis.registry import service_names

PACKAGE = "parcels"


@contextmanager
def installed_beside(place: Path, entry: str, files: dict[str, str]) -> Iterator[None]:
    """The entry point as `name = module:function`; the files are those of the package `parcels`."""
    write(place, files)
    told = place / "somebodys-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{installed.GROUP}]\n{entry}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        forget()
        yield
    forget()


@contextmanager
def installed_without(name: str) -> Iterator[None]:
    """As if this service were not there, and the checkout did not name it."""
    there = entry_points(group=installed.GROUP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed, "entry_points", lambda group: [one for one in there if one.name != name])
        patch.setattr(installed, "_CHECKOUT", Path("not there"))
        forget()
        yield
    forget()


def write(place: Path, files: dict[str, str]) -> None:
    """Those of its package, from now on."""
    folder = place / PACKAGE
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    forget()


def forget() -> None:
    """What is found is found once in the life of a process."""
    for module in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[module]
    installed.named.cache_clear()
    service_names.cache_clear()
