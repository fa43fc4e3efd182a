"""Style http as `choreo up` starts it: what the contract says of money and flows, and what an outage does.

The whole contract against another style: `pytest tests/e2e/test_contract.py --style http`, by hand.
"""

import asyncio
import json

import pytest

from choreo.benchmarks.styles.outages import OUTAGES, Observed, staged
from choreo.cli.running.demo import perform, the_story
from choreo.demo.screens import JsonScreen
from choreo.errors import Unavailable
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.styles.composition import require_composition
from tests.e2e.outside import User
from tests.e2e.test_contract import (  # noqa: F401
    anyone,
    choreo,
    customer,
    log,
    needs_kafka,
    shop,
    system,
    test_a_cancel_again_gives_the_first_answer_though_the_order_is_refunded_by_now,
    test_a_get_waits_until_its_service_has_applied_the_flow,
    test_a_key_in_flight_gives_the_first_answer_or_409,
    test_an_account_comes_with_the_registration,
    test_an_order_cancelled_before_it_is_decided_is_cancelled_at_once,
    test_an_order_is_taken_with_202_and_a_location,
    test_an_orders_changes_are_streamed,
    test_each_outcome_is_told_once_newest_first_and_mailed,
    test_one_order_is_one_trace_over_all_services_with_the_times_of_choreo_trace,
    test_what_cannot_be_decided_in_time_is_turned_away_while_reads_and_deposits_go_on,
    test_what_is_not_decided_in_time_is_202_and_a_repeat_waits_anew,
    test_what_is_over_is_409_to_cancel,
    test_who_prefers_to_wait_gets_201_once_it_is_decided,
    user,
)

STYLE = "http"


@pytest.fixture(scope="module")
def style() -> str:
    try:
        require_composition(STYLE)
    except Unavailable as why:  # a further service is installed
        pytest.skip(str(why))
    return STYLE


def verb(system: ThrowawaySystem, *arguments: str) -> tuple[int, str, str]:  # noqa: F811
    environment = {"CHOREO_HOME": str(system.home), "CHOREO_PORT_BASE": str(system.port_base)}
    done = choreo(*arguments, **environment)
    return done.returncode, done.stdout, done.stderr


def test_the_story_holds_and_the_money_cases(system: ThrowawaySystem) -> None:  # noqa: F811
    assert asyncio.run(perform(the_story, system.run_file, JsonScreen()))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["scale", "order=2"], 64, "one process"),
        (["verify"], 3, "keeps no events"),
    ],
)
def test_a_verb_that_makes_no_sense_here_says_so_in_a_sentence(
    system: ThrowawaySystem,  # noqa: F811
    arguments: list[str],
    exit_code: int,
    says: str,
) -> None:
    got, _, error = verb(system, *arguments)
    assert (got, error.count("\n")) == (exit_code, 1), error
    assert says in error


def test_doctor_finds_nothing(system: ThrowawaySystem, customer: User) -> None:  # noqa: F811
    customer.order("100.00")
    exit_code, told, _ = verb(system, "doctor", "--json")
    assert exit_code == 0, told
    assert {finding["about"] for finding in json.loads(told)} == {"user", "order", "billing", "notification"}


def test_trace_tells_what_the_journals_hold(system: ThrowawaySystem, customer: User) -> None:  # noqa: F811
    order = customer.order("100.00").json()["id"]
    customer.notified(1)
    exit_code, told, _ = verb(system, "trace", order, "--format", "json")
    assert exit_code == 0
    (flow,) = json.loads(told)["flows"]
    did = [(one["service"], one["type"]) for one in flow["journaled"]]
    assert (flow["asked"]["type"], flow["events"]) == ("PlaceOrder", [])
    assert did == [
        ("billing", "OrderCreated"),
        ("order", "PaymentConfirmed"),
        ("notification", "PaymentConfirmed"),
        ("notification", "RecordDelivery"),
    ]


WANTED = {
    "billing is down": Observed("202 created", 0, "confirmed", 1, 1),
    "notification is down": Observed("201 confirmed", 0, "confirmed", 1, 1),
    "billing takes the request and never answers": Observed("202 created", 0, "confirmed", 1, 1),
}


def looked(system: ThrowawaySystem, outage: str) -> Observed:  # noqa: F811
    async def look() -> Observed:
        async with staged(system) as stage:
            await stage.all_ready()
            return await OUTAGES[outage](stage, await stage.customer())

    return asyncio.run(look())


@pytest.mark.parametrize("outage", WANTED)
def test_an_outage_does_what_the_table_says(system: ThrowawaySystem, outage: str) -> None:  # noqa: F811
    assert looked(system, outage) == WANTED[outage]


def test_an_order_service_that_is_killed_between_two_calls_finishes_what_it_began(
    system: ThrowawaySystem,  # noqa: F811
) -> None:
    assert looked(system, "the order service is killed between two calls").was_done_once
