"""The service that `choreo new` writes out is installed beside ours as long as its own tests take."""

from collections.abc import Iterator

import pytest

from choreo.chassis.database.migrate import migrate
from choreo.chassis.runtime import build_of
from choreo.chassis.settings import OBSERVER
from choreo.embedded.postgres import Postgres
from tests.installing import installed_beside
from tests.shop import BUILDS

ENTRY = "pinboard = choreo.templates.pinboard_service.service:service"


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        installed_beside(tmp_path_factory.mktemp("installed"), ENTRY, {}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(BUILDS, "pinboard", build_of("pinboard"))
        yield


@pytest.fixture(scope="module")
def templates(templates: dict[str, str], postgres: Postgres, _installed: None) -> dict[str, str]:
    """And its own."""
    owner_url, _ = postgres.create_service("pinboard", database="template_pinboard")
    migrate("pinboard", owner_url, "pinboard", OBSERVER)
    return {**templates, "pinboard": "template_pinboard"}
