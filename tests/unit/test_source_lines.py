"""Whose code a line is."""

from importlib import import_module
from pathlib import Path

import pytest

from choreo.chassis.source_lines import raised_at


@pytest.mark.parametrize(
    ("package", "requires", "own"),
    [
        ("warehouse_beside", None, True),
        ("warehouse_installed", "choreo-kafka>=0.1", True),
        ("third_party", "pydantic>=2", False),
    ],
)
def test_a_services_line_is_named_wherever_it_lies(
    package: str, requires: str | None, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, package, requires)
    monkeypatch.syspath_prepend(tmp_path)
    decide = import_module(f"{package}.decide").decide
    with pytest.raises(ValueError, match="too little") as raised:
        decide()
    line = raised_at(raised.value) or ""
    assert line == f"{package}/decide.py:2" if own else line.startswith("tests/unit/test_source_lines.py:")


def install(directory: Path, package: str, requires: str | None) -> None:
    """As pip does; without a requirement it just lies there."""
    (directory / package).mkdir()
    (directory / package / "decide.py").write_text("def decide():\n    raise ValueError('too little')\n")
    if requires:
        about = directory / f"{package}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: {package}\nVersion: 1\nRequires-Dist: {requires}\n")
        (about / "top_level.txt").write_text(package)
