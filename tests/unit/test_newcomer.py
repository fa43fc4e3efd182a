"""`choreo new` writes a service that is in form and agrees with itself, and refuses what would not do."""

import subprocess
import sys
from pathlib import Path

import pytest

import events
from choreo.chassis.agreement import disagreements
from choreo.chassis.registry import descriptions, examples, free_port_offset
from choreo.errors import Unavailable, UsageError
from choreo.message.catalog import FACT_OF_TYPE, SOURCE_OF_TYPE
from choreo.operations.acting.newcomer import write_service
from tests.installing import forget, installed_beside

PROJECT = """[project]
name = "shop"

[project.entry-points."choreo.services"]
user = "user_service.service:service"

[tool.ruff]
line-length = 110
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "events").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "templates").symlink_to(ROOT / "tests" / "templates")
    return tmp_path


def test_what_is_written_is_in_form_and_named_once(tree: Path) -> None:
    written = {str(file.relative_to(tree)) for file in write_service("shipping", tree)}
    assert written >= {
        "events/shipping.py",
        "shipping_service/service.py",
        "shipping_service/migrations/shipping_0001_boards.py",
        "tests/unit/test_shipping.py",
        "tests/component/test_shipping.py",
        "tests/choreography/test_shipping.py",
    }
    assert not any("pinboard" in (tree / file).read_text().lower() for file in written)
    project = (tree / "pyproject.toml").read_text()
    assert project == PROJECT.replace(
        'user = "user_service.service:service"\n',
        'user = "user_service.service:service"\nshipping = "shipping_service.service:service"\n',
    )
    for check in (["check"], ["format", "--check"]):
        ruff: list[str | Path] = [
            sys.executable,
            "-m",
            "ruff",
            *check,
            "--config",
            ROOT / "pyproject.toml",
            *sorted(written),
        ]
        done = subprocess.run(ruff, cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_what_is_written_agrees_with_itself(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port_offset()
    write_service("shipping", tree)
    monkeypatch.setattr(events, "__path__", [*events.__path__, str(tree / "events")])
    for known in (FACT_OF_TYPE, SOURCE_OF_TYPE):
        for name in ("ShippingOpened", "ShippingNoted"):
            monkeypatch.setitem(known, name, None)  # so that it is gone afterwards
            del known[name]
    with installed_beside(tree, "shipping = shipping_service.service:service", {}):
        there = descriptions()["shipping"]
        assert there.port_offset == free
        assert disagreements(there, examples()) == []
    forget()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Points", "is no name of a service"),
        ("my-points", "is no name of a service"),
        ("class", "is no name of a service"),
        ("observer", "means something else here"),
        ("pinboard", "means something else here"),
        ("billing", "There is a billing service already"),
        ("examples", "means something else here"),
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(tree: Path, name: str, says: str) -> None:
    before = sorted(tree.rglob("*"))
    with pytest.raises(UsageError, match=says):
        write_service(name, tree)
    assert sorted(tree.rglob("*")) == before


def test_a_service_that_was_begun_is_not_written_over(tree: Path) -> None:
    (tree / "events" / "shipping.py").write_text("mine")
    with pytest.raises(UsageError, match="There is a shipping service already"):
        write_service("shipping", tree)
    assert (tree / "events" / "shipping.py").read_text() == "mine"


def test_it_is_run_where_the_project_lies(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^pyproject.toml and events/ are not in"):
        write_service("shipping", tmp_path)
