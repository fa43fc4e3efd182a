"""No Kafka anywhere: every service serves all the same, says what is missing, and keeps its facts."""

from contextlib import AsyncExitStack

from choreo.demo.client import Customer
from choreo.embedded.postgres import Postgres
from tests.component.alone import Alone, alone, assert_problem
from tests.services import SERVICES

JOBS = {"kernel", "database", "broker", "relay"}
MORE_JOBS = {
    "user": {"timers"},
    "order": {"consumer", "admission", "timers"},
    "billing": {"consumer"},
    "notification": {"consumer"},  # and the mailer, where there is a mail server
}
"""Of these; what another service does besides is its own."""


async def test_http_serves_and_readiness_names_the_broker(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    async with AsyncExitStack() as stack:
        services: dict[str, Alone] = {
            name: await stack.enter_async_context(alone(name, postgres, templates, consuming=True))
            for name in SERVICES
        }
        for name, service in services.items():
            assert (await service.http.get("/health/live")).status_code == 200
            problem = assert_problem(await service.http.get("/health/ready"), 503, "not_ready")
            jobs = problem["jobs"]
            assert "broker" in problem["detail"]
            assert not jobs["broker"]["ready"] and jobs["broker"]["cause"]
            assert jobs["database"]["ready"] and jobs["database"]["cause"] is None
            assert (await service.http.get("/health/serving")).status_code == 200
            assert jobs.keys() >= JOBS
            assert name not in MORE_JOBS or jobs.keys() == JOBS | MORE_JOBS[name]
            for path in ("/openapi.json", "/docs", "/metrics"):
                assert (await service.http.get(path)).status_code == 200

        ada = await Customer.register({"user": services["user"].http})
        assert (await ada.get("user", "/users/me")).status_code == 200
        eve = await services["order"].customer()
        assert (await eve.order("100")).status_code == 202
        assert [order["status"] for order in await eve.orders()] == ["created"]
        for name, customer in (("user", ada), ("order", eve)):
            query = "SELECT count(*) FROM outbox WHERE key = %s"
            assert services[name].database.rows(query, str(customer.id)) == [(1,)]
