"""The shop in which everything has happened, and its recording."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from choreo.cli.debugging.record import recorded
from choreo.embedded.postgres import Postgres
from choreo.replay.sources.recording import Recording
from tests.brokers import Broker
from tests.replay.story import play
from tests.services import SERVICES
from tests.shop import Shop, a_shop


@asynccontextmanager
async def a_played_shop(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], maildir: Path
) -> AsyncIterator[Shop]:
    async with a_shop(kafka, postgres, templates, maildir) as shop:
        await shop.start(*SERVICES)
        with pytest.MonkeyPatch.context() as monkeypatch:
            await play(shop, monkeypatch)
        yield shop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """A shop in which everything has happened. It goes on."""
    async with a_played_shop(kafka, postgres, templates, tmp_path_factory.mktemp("mail") / "mail") as shop:
        yield shop


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def played(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """Another one, stopped, for all tests that leave it as it is. Its mail server answers in the session's
    loop.
    """
    async with a_played_shop(kafka, postgres, templates, tmp_path_factory.mktemp("mail") / "mail") as shop:
        await shop.stop()
        yield shop


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def recording(played: Shop, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("recording") / "story.ndjson"
    await recorded(played.installation, path)
    return Recording(path)
