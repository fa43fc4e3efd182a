"""`choreo new` writes a service that is in form and agrees with itself, and refuses what would not do."""

import ast
import re
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest

import events
from choreo.chassis.agreement import disagreements
from choreo.chassis.registry import descriptions, examples, free_port_offset
from choreo.errors import Unavailable, UsageError
from choreo.message.catalog import FACT_OF_TYPE, SOURCE_OF_TYPE
from choreo.operations.acting.newcomer import write_service
from tests.installing import forget, installed_beside
from tests.services import SERVICES

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
    free = free_port_offset()
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


MOST_REPEATED = 0.2
"""Of the lines of a new service, such as another has, too. What is alike in all belongs to the chassis."""


def lines(file: Path, service: str) -> list[str]:
    """Stripped, none that is blank or imports something, and the service's own name made anybody's."""
    source = file.read_text()
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    numbers = {n for node in imports for n in range(node.lineno, (node.end_lineno or 0) + 1)}
    named = re.compile(rf"\b({service}|{service.capitalize()}s?)(?=\b|_service|_\d|Fact\b)")
    stripped = ((n, line.strip()) for n, line in enumerate(source.splitlines(), start=1))
    return [named.sub("NAME", line) for n, line in stripped if line and n not in numbers]


def repeated(file: Path, service: str, others: Path, other: str) -> int:
    """Lines that stand one after the other in both: at least two, as one alone may be Python's own form."""
    if not others.exists():
        return 0
    both = SequenceMatcher(None, lines(file, service), lines(others, other), autojunk=False)
    return sum(block.size for block in both.get_matching_blocks() if block.size > 1)


def share_repeated(package: Path, service: str, other: str) -> float:
    """Room by room."""
    rooms = sorted(package.rglob("*.py"))
    alike = 0
    for room in rooms:
        place = str(room.relative_to(package)).replace(service, other)
        there = next((ROOT / f"{other}_service").glob(re.sub(r"(_\d+_).*", r"\1*.py", place)), ROOT / "none")
        alike += repeated(room, service, there, other)
    return alike / sum(len(lines(room, service)) for room in rooms)


def test_what_is_written_repeats_little_of_any_other_service(tree: Path) -> None:
    write_service("haulage", tree)
    shares = {other: share_repeated(tree / "haulage_service", "haulage", other) for other in SERVICES}
    assert {other: share for other, share in shares.items() if share > MOST_REPEATED} == {}


def test_it_sees_what_is_repeated() -> None:
    assert share_repeated(ROOT / "order_service", "order", "order") > 0.99


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Points", "is no name of a service"),
        ("my-points", "is no name of a service"),
        ("p", "is no name of a service"),
        ("class", "is no name of a service"),
        ("observer", "means something else here"),
        ("pinboard", "means something else here"),
        ("billing", "There is a billing service already"),
        ("examples", "means something else here"),
        ("admin", "means something else here"),  # Kafka's superuser
        ("metrics", "means something else here"),  # a path that every service has
        ("on", "means something else here"),  # no word in YAML
        ("note", "means something else here"),  # a row of the template
        ("mapping", "means something else here"),  # what the template imports
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(tree: Path, name: str, says: str) -> None:
    before = sorted(tree.rglob("*"))
    with pytest.raises(UsageError, match=says):
        write_service(name, tree)
    assert sorted(tree.rglob("*")) == before


def test_a_service_that_was_begun_is_not_written_over(tree: Path) -> None:
    (tree / "events" / "freight.py").write_text("mine")
    with pytest.raises(UsageError, match=r"events/freight\.py is there already: take another word, or move"):
        write_service("freight", tree)
    assert (tree / "events" / "freight.py").read_text() == "mine"


def test_it_is_run_where_the_project_lies(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^pyproject.toml and events/ are not in"):
        write_service("shipping", tmp_path)
