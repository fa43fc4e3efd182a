"""What the benchmark computes of what it measured, and what it tells of it."""

import asyncio
import json
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import log10
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from choreo.benchmarks import programme
from choreo.benchmarks.age.measure import Turn, stage
from choreo.benchmarks.charts.curves import Curve, curves
from choreo.benchmarks.connection import Answer, Connection
from choreo.benchmarks.costs.counters import Counters, KernelCosts, Transactions, costs, topic_bytes
from choreo.benchmarks.costs.profile import Profiler
from choreo.benchmarks.costs.statements import count, written
from choreo.benchmarks.latency import Quantiles, by_stage, delays, quantiles
from choreo.benchmarks.limits.capacity import no_backlog, search
from choreo.benchmarks.limits.recovery import again_after, evenly, longest_gap
from choreo.benchmarks.load import Placed, Sent, send_when_due
from choreo.benchmarks.observe import OUTCOMES, Journals
from choreo.benchmarks.parts import line_through
from choreo.benchmarks.programme import Wanted
from choreo.benchmarks.rates import AtRate, plot, usual_rates
from choreo.benchmarks.results.comparison import Figure, compare, read_earlier
from choreo.benchmarks.results.judged import Judged, refuse_void, verdict
from choreo.benchmarks.results.report import show
from choreo.benchmarks.users import OrderMaker, Refused, User
from choreo.cli.main import app
from choreo.cli.programmes.bench import Measurement
from choreo.errors import Unavailable, UsageError
from tests.unit.chaos.past import Past

SVG = "{http://www.w3.org/2000/svg}"
ANN = User(uuid4(), "ann", "token")
MACHINE = {"cores": 2, "load_before": 0.1}


def wanted(*names: str, rates: Sequence[float] = ()) -> Wanted:
    return Wanted(names, 1, 4000, rates)


def results(**measured: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "seconds": 20, "judged": {}, **measured}


# Which measurements there are.


def asked_for(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """The names with which `choreo bench` measures."""
    asked: list[str] = []

    def run(wanted: Wanted, **_: object) -> bool:
        asked.extend(wanted.names)
        return True

    monkeypatch.setattr(programme, "run", run)
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 0, done.output
    return asked


def test_only_may_be_given_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_for(monkeypatch, "--only", "latency", "--only", "replay") == ["latency", "replay"]


def test_without_only_all_is_measured_that_can_share_a_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_for(monkeypatch) == list(programme.TOGETHER)


def test_with_all_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(asked_for(monkeypatch, "--all")) == sorted(Measurement)


def test_all_and_some_are_two_wishes() -> None:
    assert CliRunner().invoke(app, ["bench", "--all", "--only", "rest"]).exit_code != 0


def test_a_void_run_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme, "run", lambda *_, **__: False)
    assert CliRunner().invoke(app, ["bench"]).exit_code == 1


def test_what_shares_no_system_gets_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    systems: list[list[str]] = []

    def measured(wanted: Wanted, progress: object) -> tuple[dict[str, Any], Judged]:
        systems.append(list(wanted.names))
        return {}, Judged([], 0, 0, violations="hostile" in wanted.names, told=[])

    monkeypatch.setattr(programme, "_on_one_system", measured)
    monkeypatch.setattr(programme, "show", lambda *_, **__: None)
    assert not programme.run(wanted("replay", "sustained", "hostile", "latency"))
    assert systems == [["latency", "sustained"], ["hostile"], ["replay"]]
    assert programme.run(wanted("replay", "sustained"))  # no run of these was void


@pytest.mark.parametrize(("rates", "drawing"), [([], Path("plot.svg")), ([100.0], None)])
def test_what_is_drawn_has_to_be_measured(rates: list[float], drawing: Path | None) -> None:
    with pytest.raises(UsageError, match="--only rates"):
        programme.run(wanted("sustained", rates=rates), drawing=drawing)


def test_a_profile_needs_a_load_and_somebody_who_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--only sustained"):
        programme.run(replace(wanted("rates", rates=[50.0]), profiles=Path("here")))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="py-spy"):
        programme.run(replace(wanted("rates"), profiles=Path("here")))


def test_who_may_not_look_into_a_process_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    nobody = 2**22  # above what pids there are
    with pytest.raises(Unavailable, match="py-spy may not look"):
        Profiler({"order": nobody}, tmp_path)


# Delays.


def test_percentiles_are_delays_that_occurred() -> None:
    found = quantiles([number / 1000 for number in range(1, 2001)])
    figures = (found.p50_ms, found.p90_ms, found.p99_ms, found.p999_ms, found.max_ms)
    assert (found.count, *figures) == (2000, 1000.0, 1800.0, 1980.0, 1998.0, 2000.0)
    assert quantiles([0.3, 0.1, 0.2]).p50_ms == 200.0
    assert quantiles([0.5]) == Quantiles(1, 500.0, 500.0, 500.0, 500.0, 500.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        quantiles([])


@dataclass(frozen=True)
class Committed(Journals):
    """What became of orders, without a database."""

    at: float

    def when_committed(
        self, service: str, flows: Collection[UUID], types: Collection[str] = OUTCOMES
    ) -> dict[UUID, float]:
        return dict.fromkeys(flows, self.at)


def test_an_order_without_a_mail_counts_as_if_it_came_now() -> None:
    now = time.time()
    placed = [Placed(ANN, uuid4(), uuid4(), now - 60, now - 59) for _ in range(2)]
    found, missing = by_stage(placed, Committed({}, now - 50), {placed[0].flow: now - 30})
    assert missing == 1
    assert found["mailed"].p50_ms == pytest.approx(30_000, abs=1) and found["mailed"].max_ms >= 60_000
    assert (found["accepted"].p50_ms, found["notified"].p50_ms) == pytest.approx((1000, 10_000), abs=1)


def test_an_order_that_was_lost_is_no_figure() -> None:
    with pytest.raises(LookupError):
        delays([Placed(ANN, uuid4(), uuid4(), 0.0, 1.0)], {})


# The open loop.


def answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nflow-id: {uuid4()}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


OK = answer("202 Accepted", f'{{"id":"{uuid4()}"}}')
BUSY = answer("503 Busy", '{"type":"urn:choreo:overloaded"}')
GONE = b""


async def sent_to(answers: Sequence[bytes], times: Sequence[float], connections: int = 1) -> list[Sent]:
    """What became of orders due at these times, seconds from now, at a service that gives these answers."""
    left = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.read(1 << 16)) and (answer := next(left)):
            writer.write(answer)
        writer.close()

    ended: list[Sent] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(30):
            await send_when_due([OrderMaker(ANN)], port, times, ended.append, connections)
    return ended


async def test_what_is_sent_too_late_waits_since_it_was_due() -> None:
    """Coordinated omission: the load generator, or a service that stalled it, was a minute late."""
    late, on_time = await sent_to([OK, OK], [-60.0, 0.0])
    assert late.ended - late.due >= 60 and late.placed().accepted - late.placed().scheduled >= 60
    assert on_time.ended - on_time.due < 30


async def test_orders_wait_for_the_only_connection_in_the_order_they_are_due() -> None:
    ended = await sent_to([OK] * 5, [-5.0, -4.0, -3.0, -2.0, -1.0])
    assert [round(sent.due - ended[0].due) for sent in ended] == [0, 1, 2, 3, 4]


async def test_each_way_not_to_be_accepted_is_told_apart() -> None:
    busy, gone, again = await sent_to([BUSY, GONE, OK], [0.0, 0.0, 0.0])
    assert (busy.outcome, gone.outcome, again.outcome) == ("overloaded", "ConnectionError", "202")
    with pytest.raises(Refused, match="got 503"):
        busy.placed()
    with pytest.raises(ConnectionError):
        gone.placed()


def test_rates_are_the_same_in_every_run_up_to_what_is_sustained() -> None:
    assert usual_rates(790.0) == [50, 100, 200, 400] and usual_rates(10.0) == [50]


# The plot.


def at(rate: float, p50_ms: float) -> dict[str, Any]:
    row = {"p50_ms": p50_ms, "p99_ms": 3 * p50_ms, "p999_ms": 9 * p50_ms}
    return {"rate": rate, "delays": dict.fromkeys(("accepted", "decided", "notified", "mailed"), row)}


def test_the_plot_is_svg_and_higher_is_later() -> None:
    drawn = ElementTree.fromstring(plot({"50": at(50, 10.0), "400": at(400, 100.0)}))
    lines = [line.attrib["points"] for line in drawn.iter(SVG + "polyline")]
    assert len(lines) == 2 * 4 * 3  # each with its sample in the legend
    (x1, y1), (x2, y2) = (map(float, place.split(",")) for place in lines[0].split())
    assert x1 < x2 and y1 > y2
    decade = (y1 - y2) / 1  # ten times as long
    (_, p99), _ = (tuple(map(float, place.split(","))) for place in lines[2].split())
    assert y1 - p99 == pytest.approx(decade * log10(3), abs=0.2)
    assert {text.text for text in drawn.iter(SVG + "text")} >= {"50", "400", "10", "100", "notified p99.9"}


def test_a_single_rate_and_names_with_signs_can_be_drawn() -> None:
    drawn = curves("a < b", "x & y", "ms", [Curve("<one>", [(50.0, 10.0)], 0)])
    assert len(list(ElementTree.fromstring(drawn).iter(SVG + "circle"))) == 1


# The judge.


@pytest.fixture
def ordered() -> tuple[Past, OrderMaker]:
    """A user with a million, who placed an order for 3.00, and what the load generator knows of her."""
    past = Past()
    ada = past.register("Ada")
    past.deposit(ada, 1_000_000_00)
    maker = OrderMaker(User(UUID(ada), "Ada", "token", str(past.requests[-1].id)), "3.00")
    maker.answered(b"", Answer(202, b"", json.dumps({"id": past.order(ada, 300)}).encode()))
    past.requests = maker.requests()
    return past, maker


def test_a_run_counts_where_all_that_was_asked_for_came_to_be(ordered: tuple[Past, OrderMaker]) -> None:
    found = verdict(ordered[0].history(), [], all_asked=True)
    assert (found.violations, found.orders, found.promises[-1]) == (0, 1, "I8")
    refuse_void(found)


def test_a_broken_promise_makes_a_run_void(ordered: tuple[Past, OrderMaker]) -> None:
    ordered[0].requests.pop()
    found = verdict(ordered[0].history(), ["order: 1 unpublished facts"], all_asked=True)
    assert found.violations == 2
    assert found.told[0] == "I7: order: 1 unpublished facts" and "I6: nobody asked for" in found.told[1]
    with pytest.raises(Refused, match="2 violations"):
        refuse_void(found)


def test_what_others_asked_for_is_not_judged_by_requests(ordered: tuple[Past, OrderMaker]) -> None:
    ordered[0].requests.clear()
    found = verdict(ordered[0].history(), [], all_asked=False)
    assert found.violations == 0 and "I6" not in found.promises


async def asked_again(maker: OrderMaker) -> list[bytes]:
    """What a service is sent that takes everything."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(30):
        await maker.ask_again(Connection(server.sockets[0].getsockname()[1]))
    return asked


async def test_what_was_not_answered_is_asked_again_under_the_same_key() -> None:
    maker = OrderMaker(ANN)
    lost, refused, accepted = maker.next(), maker.next(), maker.next()
    maker.answered(lost, ConnectionError("gone"))
    maker.answered(refused, Answer(503, b"", BUSY))
    maker.answered(accepted, Answer(202, b"", b'{"id": "another"}'))
    asked = await asked_again(maker)
    assert len(asked) == 1 and lost.startswith(asked[0])
    assert len(maker.requests()) == 4  # a registration, a deposit, and two orders


async def test_who_has_another_token_asks_again_with_it_under_the_same_key() -> None:
    maker = OrderMaker(ANN)
    lost = maker.next()
    maker.answered(lost, ConnectionError("gone"))
    maker.is_now(replace(ANN, token="another"))
    asked = await asked_again(maker)
    assert b"Bearer another\r\n" in asked[0]
    assert (
        asked[0].partition(b"Idempotency-Key")[2] == lost.partition(b"Idempotency-Key")[2].partition(b"{")[0]
    )


# What everything behind the orders had to do.


def test_costs_are_differences_for_each_order() -> None:
    postgres = {"commits": 100.0, "fsyncs": 50.0, "wal_bytes": 1000.0, "table_bytes": 500.0}
    before = Counters(
        {"order": Transactions(10, 20, 1.0), "user": Transactions(1, 1, 0.1)}, postgres, 100, {}
    )
    after = Counters(
        {"order": Transactions(30, 420, 1.5), "user": Transactions(1, 1, 0.1)},
        {name: 3 * count for name, count in postgres.items()},
        1100,
        {"order": 400},
    )
    found = costs(before, after, seconds=10.0, orders=100.0)
    assert found.transactions["order"] == KernelCosts(per_second=2.0, inputs=20.0, milliseconds=25.0)
    assert found.transactions["user"] == KernelCosts(0.0, 0.0, 0.0)
    assert (found.commits_per_order, found.fsyncs_per_order) == (2.0, 1.0)
    assert found.bytes_per_order == {"wal": 20, "tables": 10, "topics": 10}
    assert found.disk_bytes_per_order == {"order": 4}


def test_statements_are_counted_and_timed_by_who_asked_and_what_they_call_themselves() -> None:
    at = "2026-11-28 20:00:00.000 UTC [12]"
    log = f"""\
{at} billing@choreo_billing LOG:  duration: 0.2 ms  parse _pg3_5: /* keys.lock: sorted */
{at} billing@choreo_billing LOG:  duration: 0.1 ms  bind _pg3_5: /* keys.lock: sorted */
{at} billing@choreo_billing LOG:  duration: 1.2 ms  execute _pg3_5: /* keys.lock: sorted */
\tSELECT key FROM keys
{at} billing@choreo_billing LOG:  duration: 2.5 ms  statement: COMMIT
{at} billing@choreo_billing LOG:  duration: 0.5 ms  execute <unnamed>: /* keys.lock: sorted */
{at} billing@choreo_billing LOG:  statement: SELECT 1
[9] LOG:  checkpoint starting: time
{at} order@choreo_order LOG:  duration: 0.1 ms  statement: BEGIN
"""
    found = count(log.encode().splitlines())
    assert list(found) == ["billing", "order"]
    assert list(found["billing"]) == ["COMMIT", "keys.lock"], "what takes longest comes first"
    assert found["billing"]["keys.lock"].times == 2
    assert found["billing"]["keys.lock"].ms == pytest.approx(2.0)
    assert (found["order"]["BEGIN"].times, found["order"]["BEGIN"].ms) == (1, 0.1)


def test_a_log_that_was_emptied_meanwhile_is_read_on_where_it_went(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_bytes(b"before|during")
    assert written(log, begin=7, end=13) == b"during"
    log.rename(tmp_path / "postgres.old.log")
    log.write_bytes(b" and after")
    assert written(log, begin=7, end=4) == b"during and"


def test_only_segments_of_topics_with_events_are_counted(tmp_path: Path) -> None:
    for name, size in {"a.order-events-0/0.log": 5, "order-events-1/0.log": 7, "order-events-1/0.index": 9,
                       "__consumer_offsets-0/0.log": 11}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert topic_bytes(tmp_path) == 12


# What an earlier run had.


def test_ratios_are_of_now_to_earlier() -> None:
    before = results(sustained={"orders_per_second": 800.0, "cpu_ms_per_order": {"order": 0.5}})
    now = results(sustained={"orders_per_second": 2000.0, "cpu_ms_per_order": {"order": 0.25}})
    found = compare(before, now)
    assert found.figures == [
        Figure("sustained.orders_per_second", 800.0, 2000.0),
        Figure("sustained.cpu_ms_per_order.order", 0.5, 0.25),
    ]
    assert [figure.ratio for figure in found.figures] == [2.5, 0.5] and found.remarks == []


def test_figures_in_lists_are_compared_and_words_are_not() -> None:
    before = results(hostile=[{"what": "nobody", "p99_ms": 10}])
    (figure,) = compare(before, results(hostile=[{"what": "nobody", "p99_ms": 5}])).figures
    assert (figure.name, figure.ratio) == ("hostile.0.p99_ms", 0.5)


def test_nothing_is_a_multiple_of_zero() -> None:
    assert Figure("overload.late", 0, 3).ratio is None


def test_each_figure_that_one_side_lacks_is_a_sentence() -> None:
    before = results(latency={"paid": {"p50_ms": 1.0}}, waits={"waits": 1000, "seconds": 20})
    now = results(latency={"mailed": {"p50_ms": 1.0}}, rest={"seconds": 10})
    assert compare(before, now).remarks == [
        "The earlier run has no latency.mailed.p50_ms.",
        "The earlier run has no rest.",
        "This run has no latency.paid.p50_ms.",
        "This run has no waits.",
    ]


def test_a_void_run_is_told() -> None:
    void = results(judged={"sustained": {"violations": 1}})
    assert compare(void, results()).remarks == ["The earlier run is void: promises were broken."]
    assert compare(results(), void).remarks == ["This run is void: promises were broken."]


def test_other_conditions_are_told() -> None:
    now = results() | {"machine": {"cores": 4, "load_before": 0.1}, "seconds": 5}
    assert compare(results(), now).remarks == [
        "Under other conditions: cores was 2 and is 4.",
        "Under other conditions: seconds was 20 and is 5.",
    ]


@pytest.mark.parametrize("content", ["not JSON", "[]", "{}", '{"machine": 1}'])
def test_what_holds_no_figures_is_refused_before_anything_is_measured(content: str, tmp_path: Path) -> None:
    file = tmp_path / "earlier.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"earlier\.json"):
        programme.run(wanted("startup"), earlier=file)


def test_what_json_prints_can_be_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "earlier.json"
    now = results(startup={"first_seconds": 6.0})
    show(now, None, as_json=True)
    file.write_text(capsys.readouterr().out)
    show(now, compare(read_earlier(file), now), as_json=True)
    assert json.loads(capsys.readouterr().out)["compared"]["ratios"] == {"startup.first_seconds": 1.0}
    show(now | {"startup": {"first_seconds": 1.0, "second_seconds": 1.0, "stop_seconds": 1.0}},
         compare(read_earlier(file), now), as_json=False)  # fmt: skip
    assert "startup.first_seconds" in capsys.readouterr().out


# The most that may come.


def tried_at(rate: float, *, mails: float | None = 0.1, drained: float = 0.1, accepted: int = 100) -> AtRate:
    """Of a load of 20 s in which 100 orders came."""
    delays = {"notified": quantiles([0.1])} | ({"mailed": quantiles([0.1])} if mails != NOT_LOOKED_AT else {})
    after = None if mails == NOT_LOOKED_AT else mails
    return AtRate(rate, 20.0, 100, accepted, 0, {}, 0, drained, after, delays, 0, {"order": 0.5})


NOT_LOOKED_AT = -1.0


def test_a_backlog_is_what_takes_longer_than_a_twentieth_of_the_load() -> None:
    assert no_backlog(tried_at(50)) and no_backlog(tried_at(50, mails=1.0))
    assert not no_backlog(tried_at(50, mails=1.1))
    assert not no_backlog(tried_at(50, mails=None)), "mails that did not go in time"
    assert not no_backlog(tried_at(50, accepted=99)), "somebody was turned away"
    assert no_backlog(tried_at(50, mails=NOT_LOOKED_AT, drained=1.0))
    assert not no_backlog(tried_at(50, mails=NOT_LOOKED_AT, drained=1.1))


async def test_small_rates_are_a_tenth_apart_too() -> None:
    async def load(rate: float) -> AtRate:
        return tried_at(rate)

    most = await search(20, load, lambda one: one.rate <= 17)
    assert [one.rate for one in most.trials] == [20, 18, 16]


@pytest.mark.parametrize(
    ("bears", "found", "too_much"),
    [(1000, 970, 1070), (800, 800, 880), (700, 660, 730), (10_000_000, 1570, None), (1, None, 410)],
)
async def test_the_most_is_sought_upwards_or_downwards(
    bears: float, found: float | None, too_much: float | None
) -> None:
    tried: list[float] = []

    async def load(rate: float) -> AtRate:
        tried.append(rate)
        return tried_at(rate)

    most = await search(800, load, lambda one: one.rate <= bears)
    assert (most.rate, most.too_much) == (found, too_much)
    assert [one.rate for one in most.trials] == tried and len(set(tried)) == len(tried)
    assert most.cpu_ms_per_order == ({} if found is None else {"order": 0.5})


# After a SIGKILL.


def test_it_is_as_before_when_a_second_begins_that_is_nine_tenths_of_one_before() -> None:
    killed = 100.0
    before = [killed - 5 + number / 100 for number in range(500)]
    in_flight = [killed + number / 100 for number in range(30)]
    slowly = [killed + 4 + number / 50 for number in range(100)]
    again = [killed + 6 + number / 100 for number in range(1000)]
    moments = [*before, *in_flight, *slowly, *again]
    end = killed + 16
    assert again_after(moments, killed, end) == pytest.approx(5.8, abs=0.01), "80 of 90 are from 6.0 on"
    assert longest_gap(moments, killed, end) == pytest.approx(3.71, abs=0.01)
    assert again_after([*before, *in_flight, *slowly], killed, end) is None
    assert longest_gap([*before, *in_flight], killed, end) == pytest.approx(15.71, abs=0.01)


def test_what_nobody_noticed_took_no_time() -> None:
    moments = [number / 100 for number in range(3000)]
    assert again_after(moments, 10.0, 30.0) == 0.0
    assert longest_gap(moments, 10.0, 29.99) == pytest.approx(0.01)


def test_orders_that_are_due_evenly_are_so_many_a_second() -> None:
    assert evenly(4.0, 1.5) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


# Parts.


def test_a_transaction_costs_something_fixed_and_something_for_each_input() -> None:
    found = line_through(
        {
            "100": {"client": 6600.0, "postgres": 3000.0, "wall": 1.0},
            "1": {"client": 660.0, "postgres": 1020.0, "wall": 1.0},
        }
    )
    assert (found.client_us_fixed, found.client_us_per_input) == (600.0, 60.0)
    assert (found.postgres_us_fixed, found.postgres_us_per_input) == (1000.0, 20.0)


# With age.


def turn(cpu: float, **statements: float) -> Turn:
    return Turn(1000, 10_000, 500.0, cpu, {}, 1000.0, statements)


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    young, old = [turn(1.0), turn(2.0), turn(1.0)], [turn(1.1), turn(2.0), turn(3.0)]
    assert stage("accounts", 1.0, young, old).ratio == 1.1


def test_statements_that_take_longer_are_named_the_worst_first() -> None:
    young = [turn(1.0, look=0.1, lock=0.3, write=0.2)] * 3
    old = [turn(1.0, look=0.2, lock=0.3, write=0.7, new=0.05)] * 3
    found = stage("accounts", 1.0, young, old)
    assert found.slower == pytest.approx({"write": 0.5, "look": 0.1, "new": 0.05})
    assert list(found.slower) == ["write", "look", "new"]
