"""The shop in which everything has happened, and its recording."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from choreo.cli.debugging.record import recorded
from choreo.embedded.postgres import Postgres
from choreo.replay.sources.recording import Recording
from tests.brokers import Broker
from tests.replay.story import play
from tests.services import SERVICES
from tests.shop import Shop, a_shop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """A shop in which everything has happened. It goes on."""
    async with a_shop(kafka, postgres, templates, tmp_path_factory.mktemp("mail") / "mail") as shop:
        await shop.start(*SERVICES)
        with pytest.MonkeyPatch.context() as monkeypatch:
            await play(shop, monkeypatch)
        yield shop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(running: Shop) -> Shop:
    """The same, stopped."""
    await running.stop()
    return running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recording(played: Shop, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("recording") / "story.ndjson"
    await recorded(played.installation, path)
    return Recording(path)
