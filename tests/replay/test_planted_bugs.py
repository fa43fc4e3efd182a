"""Bugs that somebody planted are found by the verbs, with the event and the line: see `planted_bugs.py`.

Bugs of several services are planted together, as none hides another's, and not all of them: with
CHOREO_PLANTED=alone each is by itself, in a recording and beside the running system. Three were live when the
facts were decided.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import invalidate_caches
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI

from choreo.chassis.registry import own_settings
from choreo.chassis.runtime import Build, Runtime, build_of
from choreo.chassis.settings import Settings
from choreo.cli.debugging.record import recorded
from choreo.demo.client import Customer
from tests.choreography.ending import caught_up, published, settled
from tests.choreography.test_parking import retried
from tests.replay.planted_bugs import (
    BUGS,
    CACHE,
    EMOJI,
    ROOT,
    ROUNDING,
    WITHOUT_PLUGINS,
    Bug,
    Edits,
    choreo,
    planted,
)
from tests.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="module")
ALONE = os.environ.get("CHOREO_PLANTED") == "alone"
CAKE = {"price": "1.13", "description": "a cake 🎂"}


@dataclass(frozen=True)
class Place:
    """A running shop, where its verbs find it, and what was recorded there."""

    shop: Shop
    home: Path
    file: Path

    async def choreo(self, *arguments: str, tree: Path) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(choreo, *arguments, tree=tree, home=self.home)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(running: Shop, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Beside what else can happen: equal amounts, one that no float holds, and an emoji."""
    carol = await running.customer("20.00")
    (await carol.deposit("20.00")).raise_for_status()
    (await carol.post("order", "/orders", CAKE)).raise_for_status()
    (await carol.order("1.00", wait=30)).raise_for_status()
    await settled(running)
    home = tmp_path_factory.mktemp("home")
    _settle_in(running, home)
    await recorded(running.installation, home / "all.ndjson")
    return Place(running, home, home / "all.ndjson")


def _settle_in(shop: Shop, home: Path) -> None:
    """Says where the shop runs, as `choreo up` does."""
    settings, access = shop.settings, shop.installation.kafka
    observer = {
        "bootstrap": access.bootstrap,
        "security.protocol": access.protocol,
        "sasl.mechanism": access.mechanism,
        "username": access.username,
        "password": access.password,
    }
    (home / "observer.json").write_text(json.dumps({"kafka": observer}))
    told = {
        "pid": os.getpid(),
        "style": "collaboration",
        "observer": str(home / "observer.json"),
        "kafka_users": {"observer": access.username},
        "topic_prefix": settings.topic_prefix,
        "partitions": settings.partitions,
        "settings": own_settings(settings),
        "runtime_urls": dict(shop.installation.database_urls),
        "ports": dict.fromkeys(shop.owner_urls, 0),
        "own_ports": {},
        "owner_urls": shop.owner_urls,
    }
    (home / "run.json").write_text(json.dumps(told))


def together() -> list[tuple[Bug, ...]]:
    """Bugs of one verdict, at most one of each service."""
    found: list[tuple[Bug, ...]] = []
    for verdict in ("changed", "not deterministic"):
        of_services = [
            [bug for bug in BUGS if (bug.verdict, bug.service) == (verdict, name)]
            for name in ("order", "billing", "notification")
        ]
        found += [tuple(filter(None, bugs)) for bugs in zip_longest(*of_services)][:2]
    return found


PLANTED = [(bug,) for bug in BUGS] if ALONE else together()


@pytest.mark.parametrize("bugs", PLANTED, ids=lambda bugs: ", ".join(bug.name for bug in bugs))
async def test_planted_bugs_are_found_in_a_recording(
    place: Place, tmp_path: Path, bugs: tuple[Bug, ...]
) -> None:
    await find(place, tmp_path, bugs, str(place.file))


LIVE = BUGS if ALONE else [bug for bug in BUGS if bug.name == "a mutable default"]


@pytest.mark.parametrize("bug", LIVE, ids=lambda bug: bug.name)
async def test_a_planted_bug_is_found_in_the_running_system(place: Place, tmp_path: Path, bug: Bug) -> None:
    await find(place, tmp_path, (bug,))


async def find(place: Place, tree: Path, bugs: tuple[Bug, ...], *source: str) -> None:
    for bug in bugs:
        planted(tree, bug.edits)
    ran = await place.choreo("verify", *source, "--json", tree=tree)
    told = json.loads(ran.stdout)
    assert {told["verdict"]} == {bug.verdict or told["verdict"] for bug in bugs}, ran.stdout
    found = [*told["not_deterministic"], *told["findings"]]
    assert {one["service"] for one in found} == {bug.service for bug in bugs}
    for bug in bugs:
        first = next(one for one in found if one["service"] == bug.service)
        assert (first["kind"], first["type"]) == (bug.kind, bug.type), first
        assert bug.says in first["says"]
        assert f"{first['table']}.{first['column']}".strip(".") == bug.column
        lines = first["lines"] or [first["handler"]]
        assert any(bug.line in _line(tree, told) for told in lines), (bug.line, lines)
        if not bug.column:
            query = "SELECT type FROM journal WHERE id = %s"
            assert place.shop.rows(bug.service, query, first["event"]) == [(bug.type,)]


def _line(tree: Path, told: str, count: int = 1) -> str:
    name, _, number = told.rpartition(":")
    return "\n".join((tree / name).read_text().splitlines()[int(number) - 1 :][:count])


# Live when the facts were decided.


@dataclass(frozen=True)
class Lived:
    place: Place
    deployed: Path
    """The code that decided."""
    tree: Path
    """Today's, in which all is mended."""
    file: Path
    """What happened to whoever was there while the bugs were live."""
    ada: Customer
    eve: Customer
    joe: Customer
    cake: str
    """Joe's order."""

    async def choreo(self, *arguments: str) -> str:
        ran = await self.place.choreo(*arguments, tree=self.tree)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    async def blamed(self, customer: Customer, line: str) -> str:
        """Blames the balance. Returns the event that it leads to, which has the very balance on its topic, as
        the table has it; and today's code would decide otherwise, in the line that is told.
        """
        told = json.loads(
            await self.choreo("blame", "billing", "accounts", str(customer.id), "balance", "--json")
        )
        balance = told["columns"]["balance"]
        query = "SELECT balance FROM accounts WHERE user_id = %s"
        assert self.place.shop.rows("billing", query, customer.id) == [(balance["new"],)]
        (event,) = [
            event
            for event in await published(self.place.shop)
            if str(event.id) == balance["cause"]["fact_id"]
        ]
        assert event.data.model_dump()["balance"] == balance["new"]
        (differs,) = told["differs"]
        assert differs["id"] == balance["cause"]["id"] and line in _line(self.tree, differs["handler"], 2)
        return event.type

    async def becomes_a_test(self, where: Path, edits: Edits, file: Path, *options: str) -> str:
        """Writes a test by `choreo minimize` where the bug still is: it fails there, and not where it is
        mended. Returns what was printed.
        """
        buggy, test = planted(where / "buggy", edits), where / "test_it.py"
        ran = await self.place.choreo("minimize", str(file), *options, "--pytest", str(test), tree=buggy)
        assert ran.returncode == 1, ran.stdout + ran.stderr
        for tree, passes in ((buggy, False), (self.tree, True)):
            tried = await asyncio.to_thread(run_pytest, test, tree)
            assert tried.returncode == (0 if passes else 1), (tree, ran.stdout, tried.stdout, tried.stderr)
        return ran.stdout


def run_pytest(test: Path, tree: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    path = {"PYTHONPATH": f"{tree}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=test.parent, env=os.environ | WITHOUT_PLUGINS | path, capture_output=True, text=True
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lived(place: Place, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lived]:
    """Billing is deployed with three bugs, and then without."""
    shop, right = place.shop, place.shop.builds
    since = datetime.now(UTC).isoformat()
    tree = tmp_path_factory.mktemp("deployed")
    for edits in (ROUNDING, CACHE, EMOJI):
        planted(tree, edits)
    await shop.stop("billing")
    shop.builds = right | {"billing": _built(tree)}
    await shop.start("billing")
    ada = await shop.customer("400.00")
    paid = (await ada.order("8.16", wait=30)).json()
    (await ada.cancel(paid["id"])).raise_for_status()
    await shop.until("billing", ada, ada.account, lambda answer: answer.json()["balance"] == "400.04")
    eve = await shop.customer("7.00")
    (await eve.withdraw("2.00")).raise_for_status()
    assert (await eve.deposit("7.00")).json()["balance"] == "7.00"
    joe = await shop.customer("9.00")
    cake = (await joe.post("order", "/orders", CAKE)).json()
    await caught_up(shop)
    await shop.stop("billing")
    shop.builds = right
    await shop.start("billing")
    mended = planted(tmp_path_factory.mktemp("mended"), {})
    file = place.home / "lived.ndjson"
    found = Lived(place, tree, mended, file, ada, eve, joe, cake["id"])
    await found.choreo("record", "--from", since, "-o", str(file))
    yield found


def _built(tree: Path) -> Build:
    """Billing as the tree has it, beside the one that is imported already."""

    def build(settings: Settings) -> tuple[Runtime[Any], FastAPI]:
        mine = {
            name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("billing_service")
        }
        sys.path.insert(0, str(tree))
        invalidate_caches()
        try:
            return build_of("billing")(settings)
        finally:
            sys.path.remove(str(tree))
            sys.modules.update(mine)

    return build


async def test_what_was_rounded_at_a_refund_leads_to_its_line_and_a_test(
    lived: Lived, tmp_path: Path
) -> None:
    assert await lived.blamed(lived.ada, "return [\n                PaymentRefunded(") == "PaymentRefunded"
    should = "PaymentRefunded: amount == state.payments[order_id].amount"
    told = await lived.becomes_a_test(tmp_path, ROUNDING, lived.file, "--expect", should)
    assert "billing.given(deposit(40000), order(816), cancel()).then(refunded(816))" in told


async def test_what_a_module_remembered_leads_to_its_line_and_a_test(lived: Lived, tmp_path: Path) -> None:
    assert await lived.blamed(lived.eve, "MoneyDeposited(") == "MoneyDeposited"
    should = "MoneyDeposited: balance == state.account.balance + amount"
    await lived.becomes_a_test(tmp_path, CACHE, lived.file, "--expect", should)


async def test_an_emoji_that_a_handler_fails_for_leads_to_its_line_and_a_test(
    lived: Lived, tmp_path: Path
) -> None:
    """What was parked is decided once the bug is mended: then the recording has what should be."""
    told = " ".join((await lived.choreo("trace", lived.cake)).split())
    where = re.search(r"parked for .*: UnicodeEncodeError: .* \((billing_service/evolve.py:\d+)\)", told)
    assert where and 'encode("cp1252")' in _line(lived.deployed, where[1])
    await retried(lived.place.shop)
    await settled(lived.place.shop)
    file = tmp_path / "cake.ndjson"
    flow = re.search("flow ([0-9a-f-]{36})", told)
    assert flow
    await lived.choreo("record", "--flow", flow[1], "-o", str(file))
    assert "raises UnicodeEncodeError" in await lived.becomes_a_test(tmp_path, EMOJI, file)
