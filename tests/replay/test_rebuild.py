"""What Kafka alone makes of a service is what the service has; where it is not, that is found and mended."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chassis.settings import SERVICES
from choreo.rebuild import rebuilt
from embedded.kafka import Kafka
from embedded.postgres import Postgres
from tests.choreography.ending import _ends
from tests.replay.story import play
from tests.shop import Shop, a_shop

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(
    kafka: Kafka, postgres: Postgres, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """A shop in which everything has happened. It goes on."""
    async with a_shop(kafka, postgres, templates, tmp_path_factory.mktemp("mail") / "mail") as shop:
        await shop.start(*SERVICES)
        with pytest.MonkeyPatch.context() as monkeypatch:
            await play(shop, monkeypatch)
        yield shop


@pytest.mark.parametrize("service", SERVICES)
async def test_a_rebuilt_service_is_the_live_one_and_nothing_is_sent_or_published(
    played: Shop, service: str
) -> None:
    ends, mails = await _ends(played), sorted(played.maildir.rglob("*"))
    report = await rebuilt(played.installation, service)
    assert (report.findings, report.exit_code) == ([], 0)
    assert report.rows > 5
    assert report.facts == sum(step for (step,) in played.rows(service, "SELECT sequence FROM keys"))
    assert (await _ends(played), sorted(played.maildir.rglob("*"))) == (ends, mails)
