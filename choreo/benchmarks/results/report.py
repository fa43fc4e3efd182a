"""Results as tables for people, or as one JSON object for programs."""

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table

from choreo.benchmarks.resources import without_load
from choreo.benchmarks.results.comparison import Comparison
from choreo.terminal import Console

_QUANTILES = {
    "accepted": "answered 202",
    "taken": "order taken",
    "paid": "payment decided",
    "decided": "order decided",
    "notified": "notification stored",
    "mailed": "mailed and published",
    "sample_notified": "sample: notification stored",
    "sample_seen": "sample: seen by a client",
}
_PERCENTILES = {
    "p50_ms": "p50 ms", "p90_ms": "p90 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms", "max_ms": "max ms"
}  # fmt: skip
_SOURCES = {"wal": "pg_stat_wal", "tables": "pg_database_size", "topics": "Kafka's segments"}


def show(results: Mapping[str, Any], compared: Comparison | None, *, as_json: bool) -> None:
    if as_json:
        more = {"compared": _ratios(compared)} if compared else {}
        print(json.dumps({**results, **more}, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print("  ".join(f"{name}: {value}" for name, value in results["machine"].items()))
    for name, table in (
        ("startup", _start_up),
        ("rest", _at_rest),
        ("latency", _latency),
        ("sustained", _sustained),
        ("rates", _rates),
        ("capacity", _capacity),
        ("overload", _overload),
        ("recovery", _recovery),
        ("waits", _waits),
        ("replay", _replay),
        ("hostile", _hostile),
        ("kernel", _kernel),
        ("consumer", _consumer),
        ("styles", _styles),
        ("console", _console),
        ("age", _age),
    ):
        if name in results:
            console.print()
            console.print(table(results[name]))
    console.print()
    for name, verdict in results["judged"].items():
        console.print(_verdict(name, verdict))
    if compared:
        console.print()
        console.print(_compared(compared))
        for remark in compared.remarks:
            console.print(remark)


def _verdict(name: str, found: Mapping[str, Any]) -> str:
    looked = f"{found['orders']} orders, {found['records']} records, {', '.join(found['promises'])}"
    if not found["violations"]:
        return f"Judged ({name}): no promise was broken ({looked})."
    told = "\n".join(f"  {sentence}" for sentence in found["told"])
    return f"VOID ({name}): {found['violations']} violations ({looked}).\n{told}"


def _ratios(compared: Comparison) -> dict[str, Any]:
    return {
        "ratios": {figure.name: figure.ratio for figure in compared.figures},
        "remarks": compared.remarks,
    }


def _compared(compared: Comparison) -> Table:
    table = _table("Against the earlier run", "", "earlier", "now", "ratio")
    for figure in compared.figures:
        ratio = "was zero" if figure.ratio is None else f"{figure.ratio:.2f}"
        table.add_row(figure.name, f"{figure.earlier:g}", f"{figure.now:g}", ratio)
    return table


def _hostile(found: Sequence[Mapping[str, Any]]) -> Table:
    title = "A customer's GET /orders and POST /orders while one stranger is at it"
    columns = ("p50 ms", "p99 ms", "times quiet", "reads failed", "orders", "overloaded", "orders failed")
    table = _table(title, "with", *columns)
    for one in found:
        times = one["p99_ms"] / found[0]["p99_ms"]
        failures = sum(one["orders_failed"].values())
        figures = (one["reads_failed"], one["orders"], one["turned_away"], failures)
        ms = (f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}", f"{times:.1f}")
        table.add_row(one["what"], *ms, *map(str, figures))
    return table


def _console(found: Mapping[str, Any]) -> Table:
    title = (
        f"CPU of an order at {found['orders_per_second']:.0f} orders/s, medians of {found['turns']} turns of "
        f"{found['seconds']:.0f} s: {found['services_percent_more']:+.1f} % for the services"
    )
    table = _table(title, "part", "console closed", "open")
    for name, ms in found["cpu_ms_per_order_with"].items():
        alone = found["cpu_ms_per_order_without"].get(name)
        table.add_row(name, "" if alone is None else f"{alone:.2f}", f"{ms:.2f}")
    table.add_section()
    table.add_row("console, % of a core", "", f"{found['console_cpu_percent_of_a_core']:.1f}")
    table.add_row("console, MiB", "", f"{found['console_memory_mib']:.0f}")
    table.add_row("console is gone after", "", f"{found['console_gone_after_seconds']:.0f} s")
    return table


def _start_up(found: Mapping[str, Any]) -> Table:
    table = _table("Start-up, to ready", "", "seconds")
    table.add_row("first start, empty data", f"{found['first_seconds']:.1f}")
    table.add_row("second start", f"{found['second_seconds']:.1f}")
    table.add_row("stop", f"{found['stop_seconds']:.1f}")
    return table


def _at_rest(found: Mapping[str, Any]) -> Table:
    title = f"At rest, over {found['seconds']:.0f} s"
    table = _table(title, "part", f"memory MiB ({found['memory_kind']})", "CPU, % of a core")
    for name, mib in found["memory_mib"].items():
        table.add_row(name, f"{mib:.0f}", f"{found['cpu_percent_of_a_core'][name]:.1f}")
    table.add_section()
    table.add_row("together", f"{found['memory_total_mib']:.0f}", f"{found['cpu_total_percent']:.1f}")
    return table


def _latency(found: Mapping[str, Any]) -> Table:
    title = f"Latency at {found['rate']:.0f} orders/s, open loop, from the time an order was due"
    table = _table(title, "until", "orders", *_PERCENTILES.values())
    _add_stages(table, found)
    return table


def _add_stages(table: Table, found: Mapping[str, Any]) -> None:
    """A row for each of `_QUANTILES` that was measured."""
    for name, title in _QUANTILES.items():
        if row := found.get(name):
            table.add_row(title, str(row["count"]), *(f"{row[key]:.1f}" for key in _PERCENTILES))
    if found["not_mailed"]:
        table.add_row("  without a mail when that was given up", str(found["not_mailed"]))


def _rates(found: Mapping[str, Mapping[str, Any]]) -> Group:
    table = _table(
        "Delay over load: open loop, from the time an order was due",
        "orders/s",
        "until",
        *_PERCENTILES.values(),
    )
    loads = _table(
        "",
        "orders/s",
        "sent",
        "accepted",
        "overloaded",
        "others",
        "drained after s",
        "without mail",
        "mails before",
    )
    for rate, one in found.items():
        for stage, row in one["delays"].items():
            table.add_row(rate, _QUANTILES[stage], *(f"{row[key]:.1f}" for key in _PERCENTILES))
        table.add_section()
        counts = (one["sent"], one["accepted"], one["turned_away"], sum(one["others"].values()))
        left = (
            f"{one['drained_after_seconds']:.1f}",
            str(one["not_mailed"]),
            str(one["mails_waiting_at_begin"]),
        )
        loads.add_row(rate, *map(str, counts), *left)
    return Group(table, loads)


def _capacity(found: Mapping[str, Any]) -> Group:
    table = _table(
        "The most that may come for as long as one likes: open loop, no backlog grows",
        "",
        "orders/s",
        "too much",
        "CPU µs per order, load left out",
    )
    for name in ("without_mails", "with_mails"):
        most = found[name]
        rate, too_much = (f"{most[key]:.0f}" if most[key] else "none tried" for key in ("rate", "too_much"))
        table.add_row(
            name.replace("_", " "), rate, too_much, f"{1000 * without_load(most['cpu_ms_per_order']):.0f}"
        )
    trials = _table(
        "", "tried", "orders/s", "sent", "accepted", "drained after s", "mails after s", "p50 ms", "p99 ms"
    )
    for name in ("without_mails", "with_mails"):
        for one in found[name]["trials"]:
            mails, stored = one["mails_drained_after_seconds"], one["delays"]["notified"]
            trials.add_row(
                name.replace("_", " "),
                f"{one['rate']:.0f}",
                str(one["sent"]),
                str(one["accepted"]),
                f"{one['drained_after_seconds']:.1f}",
                "not looked at" if mails is None else f"{mails:.1f}",
                f"{stored['p50_ms']:.1f}",
                f"{stored['p99_ms']:.1f}",
            )
    half = found["at_half"]
    return Group(table, trials, *([_rates({f"{half['rate']:g}": half})] if half else ()))


def _recovery(found: Mapping[str, Any]) -> Table:
    (some, *_) = found.values()
    table = _table(
        f"SIGKILL at {some['rate']:.0f} orders/s, open loop",
        "of",
        "finished/s before",
        "90 % again after s",
        "nothing for s",
        "slowest order s",
        "not accepted",
    )
    for service, one in found.items():
        again = one["again_after_seconds"]
        table.add_row(
            service,
            f"{one['before_per_second']:.0f}",
            "not in time" if again is None else f"{again:.1f}",
            f"{one['nothing_for_seconds']:.1f}",
            f"{one['slowest_order_seconds']:.1f}",
            str(sum(one["failed"].values())),
        )
    return table


def _sustained(found: Mapping[str, Any]) -> Group:
    more = found["more"]
    return Group(_throughput(found), *([_closed_loop_latency(more), _costs(more)] if more else ()))


def _throughput(found: Mapping[str, Any]) -> Table:
    table = _table(
        f"Sustained over {found['seconds']:.0f} s, {found['connections']} connections, "
        f"at most {found['window']} orders on their way",
        "",
        "",
    )
    table.add_row("orders/s, decided and notified", f"{found['orders_per_second']:.0f}")
    for name in ("accepted", "decided", "notified"):
        table.add_row(f"  {name} per second", f"{found[f'{name}_per_second']:.0f}")
    if found["more"]:
        table.add_row("  mailed and published per second", f"{found['more']['mailed_per_second']:.0f}")
    on_their_way = f"{found['on_their_way_at_begin']} → {found['on_their_way_at_end']}"
    table.add_row("orders on their way, begin → end", on_their_way)
    table.add_row("  until all were decided and notified", f"{found['drained_after_seconds']:.1f} s")
    drained = found["mails_drained_after_seconds"]
    table.add_row("mails waiting at the end", str(found["mails_waiting_at_end"]))
    table.add_row("  until all were sent", "not in time" if drained is None else f"{drained:.1f} s")
    table.add_section()
    for name, milliseconds in found["cpu_ms_per_order"].items():
        table.add_row(f"CPU per order, {name}", f"{1000 * milliseconds:.0f} µs")
    table.add_row("CPU used together", f"{found['cpu_cores_used']:.2f} cores")
    return table


def _closed_loop_latency(more: Mapping[str, Any]) -> Table:
    title = "The same load: from when a customer sent an order, who waited for the answer to the one before"
    table = _table(title, "until", "orders", *_PERCENTILES.values())
    _add_stages(table, more)
    return table


def _costs(more: Mapping[str, Any]) -> Table:
    costs, asked = more["costs"], more["statements"]
    table = _table("The same load: what it made the system do", "", "", "from")
    for service, kernel in costs["transactions"].items():
        figures = (
            f"{kernel['per_second']:.1f}/s of {kernel['inputs']:.1f} inputs, {kernel['milliseconds']:.1f} ms"
        )
        table.add_row(f"transactions, {service}", figures, "metrics")
    table.add_section()
    for role, number in (asked["per_order"] if asked else {}).items():
        table.add_row(
            f"statements per order, {role}", f"{number:.2f}", f"Postgres' log, {asked['orders']} orders"
        )
    table.add_row("commits per order", f"{costs['commits_per_order']:.2f}", "pg_stat_database")
    table.add_row("fsyncs per order, of Postgres", f"{costs['fsyncs_per_order']:.3f}", "pg_stat_io")
    table.add_section()
    for what, size in costs["bytes_per_order"].items():
        table.add_row(f"bytes per order, {what}", f"{size:.0f}", _SOURCES[what])
    for part, size in costs["disk_bytes_per_order"].items():
        table.add_row(f"bytes written per order, {part}", f"{size:.0f}", "the system")
    for file in more["profiles"]:
        table.add_row("flame graph", file, "py-spy")
    return table


def _overload(found: Mapping[str, Any]) -> Table:
    table = _table(f"Overload: {found['rate']:.0f} orders/s for {found['seconds']:.0f} s", "", "orders")
    for name in ("sent", "accepted", "decided_in_time", "late", "turned_away"):
        table.add_row(name.replace("_", " "), str(found[name]))
    for status, count in (found["others"] or {"other": 0}).items():
        table.add_row(status, str(count))
    for name in ("decision", "answer"):
        table.add_row(f"slowest {name}", f"{found[f'slowest_{name}_seconds']:.1f} s")
    table.add_row("connections used", str(found["connections"]))
    return table


def _waits(found: Mapping[str, Any]) -> Table:
    title = f"Open waits, order service over {found['seconds']:.0f} s"
    table = _table(title, "requests that wait", "CPU, % of a core")
    table.add_row("none", f"{found['cpu_percent_without']:.2f}")
    table.add_row(str(found["waits"]), f"{found['cpu_percent_with']:.2f}")
    return table


def _replay(found: Mapping[str, Any]) -> Table:
    orders = ", ".join(f"{count} {status}" for status, count in found["orders"].items())
    title = (
        f"Replay of {found['events']} events. Orders: {orders}; {found['parked']} events of one key parked"
    )
    table = _table(
        title,
        "choreo",
        "events",
        "exits",
        "counted",
        "seconds",
        "per second",
        "per CPU second",
        "of those further",
        "peak MiB (RSS)",
    )
    rates = "seconds", "per_second", "per_cpu_second", "further_per_cpu_second", "peak_mib"
    for verb in found["verbs"]:
        exits = f"{verb['exit_code']} {verb['verdict']}".rstrip()
        figures = ("" if verb.get(name) is None else f"{verb[name]:.1f}" for name in rates)
        table.add_row(
            verb["command"], str(verb["events"]), exits, f"{verb['count']} {verb['what']}", *figures
        )
    return table


def _kernel(found: Mapping[str, Any]) -> Table:
    table = _table(
        "Billing's kernel alone, µs a transaction", "inputs", "client's CPU", "Postgres' CPU", "time"
    )
    for inputs, one in found["by_inputs"].items():
        table.add_row(inputs, *(f"{one[what]:.0f}" for what in ("client", "postgres", "wall")))
    table.add_section()
    for what, title in {"fixed": "fixed", "per_input": "for each input"}.items():
        table.add_row(title, *(f"{found[f'{who}_us_{what}']:.0f}" for who in ("client", "postgres")), "")
    return table


def _consumer(found: Mapping[str, Any]) -> Table:
    title = "From Kafka to a kernel that only waits, for each record"
    table = _table(title, "records/s", "records", "CPU µs", "p50 ms", "p99 ms")
    for rate, one in found.items():
        figures = (f"{one[what]:.1f}" for what in ("cpu_us", "p50_ms", "p99_ms"))
        table.add_row(rate, f"{one['records']:.0f}", *figures)
    return table


def _age(found: Mapping[str, Any]) -> Group:
    table = _table(
        f"With age: two systems in turn, {found['rounds']} rounds; medians",
        "the old one has more",
        "accounts",
        "journal rows",
        "orders/s",
        "CPU µs per order",
        "WAL bytes per order",
        "ratio of CPU",
    )
    slower = _table("What takes longer in the old one", "more", "statement", "ms more per order")
    for stage in found["stages"]:
        for which in ("young", "old"):
            turns = stage[which]
            counts = (f"{turns[0][name]:,} to {turns[-1][name]:,}" for name in ("accounts", "journal_rows"))
            rate, cpu, wal = (
                median(turn[name] for turn in turns)
                for name in ("orders_per_second", "cpu_ms_per_order", "wal_bytes_per_order")
            )
            ratio = f"{stage['ratio']:.2f}" if which == "old" else ""
            figures = (f"{rate:.0f}", f"{1000 * cpu:.0f}", f"{wal:.0f}", ratio)
            table.add_row(f"{stage['what']}: {which}", *counts, *figures)
        for name, ms in stage["slower"].items():
            slower.add_row(stage["what"], name, f"{ms:.3f}")
    return Group(table, slower)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _styles(found: Mapping[str, Any]) -> Table:
    (some, *_) = found.values()
    title = f"Three styles in turns, medians of {some['rounds']}; times at {some['rate']:.0f} orders/s"
    columns = {"answered_p50_ms": "answered", "decided_p50_ms": "decided", "notified_p50_ms": "told"}
    columns |= {"decided_p99_ms": "decided p99", "notified_p99_ms": "told p99"}
    columns |= {"orders_per_second": "orders/s at most", "cpu_ms_per_order": "CPU ms an order"}
    table = _table(title, "style", *(f"{name}" for name in columns.values()))
    for style, figures in found.items():
        table.add_row(style, *(f"{figures[name]:.1f}" for name in columns))
    return table
