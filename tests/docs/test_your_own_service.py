"""docs/your-own-service.md, followed to the letter in a checkout of its own: a service comes of it, which may
then be a wheel.
"""

import re
import shlex
from dataclasses import dataclass
from functools import partial

import pytest

from choreo.cli.programmes.deployed import FILES
from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.checkout import ROOT, Checkout
from tests.e2e.outside import Shop

PAGE = ROOT / "docs" / "your-own-service.md"
IN_A_PACKAGE = "## In a package of its own\n"
_BLOCK = re.compile(r"(?:^\*\*([\w/.]+)\*\*\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_THE_OTHERS = [f"tests/unit/test_{name}.py" for name in ("users", "orders", "billing")]


def follow(text: str, checkout: Checkout) -> None:
    for path, _, block in _BLOCK.findall(text):
        if path:
            (checkout.root / path).write_text(block)
        else:
            for line in block.splitlines():
                _do(line, checkout)


def _do(line: str, checkout: Checkout) -> None:
    match shlex.split(line):
        case ["make", "run"]:
            pass  # once, of what has become of it in the end
        case ["make", *arguments]:
            # What is installed is up to date, or the page is wrong.
            checkout.run("make", "--assume-old", ".venv/installed", *arguments)
        case _:
            checkout.run("sh", "-c", line)


@dataclass(frozen=True)
class Followed:
    checkout: Checkout
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """As far as the service lies in this tree; its tests are green, and `make check` is, twice."""
    checkout = Checkout(tmp_path_factory.mktemp("page") / "shop")
    before = checkout.files()
    in_the_tree, there, _ = PAGE.read_text().partition(IN_A_PACKAGE)
    assert there
    follow(in_the_tree, checkout)
    checkout.run("make", "--assume-old", ".venv/installed", "test", "ARGS=-q tests/unit/test_points.py")
    return Followed(checkout, before, checkout.files())


def test_who_follows_the_page_has_a_service_and_has_touched_nothing_else(followed: Followed) -> None:
    before, after = followed.before, followed.after
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    ours = ("points_service/", "events/points.py", "events/schemas/Points", "tests/unit/test_points.py")
    told = ("docs/api/points.", "deploy/kubernetes/", "pyproject.toml", *FILES)
    assert [name for name in sorted(changed) if not name.startswith((*ours, *told))] == []
    assert all(after[file].count(b"points") > before[file].count(b"points") for file in FILES)
    lines = {*after["pyproject.toml"].splitlines()} - {*before["pyproject.toml"].splitlines()}
    assert lines == {b'points = "points_service.service:service"'}


def test_a_recording_made_before_verifies(followed: Followed) -> None:
    told = followed.checkout.run(".venv/bin/choreo", "verify", "events/recordings/every-fact-1.ndjson")
    assert "points is younger than this recording" in told


def test_who_is_installed_is_known_and_who_is_not_is_not_missed(followed: Followed) -> None:
    """The points service as a wheel, beside a shop whose notification service is taken away."""
    checkout = followed.checkout
    checkout.take_away("notification")
    follow(PAGE.read_text().partition(IN_A_PACKAGE)[2], checkout)
    with checkout.running() as system:
        assert list(system.run_file["ports"]) == ["user", "order", "billing", "points"]
        order = an_order(system)
        choreo = partial(checkout.run, ".venv/bin/choreo", **system.environment)
        assert "PointsEarned" in choreo("trace", order)
        told = choreo("doctor")
        assert "points-events" in told and "All is well." in told
        assert re.search(r"^ +points +2 +2 +1 +1 ", choreo("verify"), re.MULTILINE)
    checkout.run("make", "--assume-old", ".venv/installed", "test", f"ARGS=-q {' '.join(OF_THE_OTHERS)}")


def an_order(system: ThrowawaySystem) -> str:
    """Paid, and points earned for it."""
    shop = Shop(system.port_base)
    with shop.http:
        ada = shop.customer("400.00")
        order = ada.order("300.00")
        points = f"{system.run_file['urls']['points']}/points?flow={order.headers['Flow-Id']}&wait=10"
        earned = shop.http.get(points, headers={"Authorization": f"Bearer {ada.token}"})
    assert earned.json() == {"balance": 300}
    return str(order.json()["id"])
