"""Results as tables for people, or as one JSON object for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from choreo.benchmarks.results.comparison import Comparison
from choreo.terminal import Console

_QUANTILES = {
    "accepted": "answered 202",
    "taken": "order taken",
    "paid": "payment decided",
    "decided": "order decided",
    "notified": "notification stored",
    "sample_notified": "sample: notification stored",
    "sample_seen": "sample: seen by a client",
}


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
        ("overload", _overload),
        ("waits", _waits),
        ("replay", _replay),
        ("hostile", _hostile),
        ("styles", _styles),
    ):
        if name in results:
            console.print()
            console.print(table(results[name]))
    if compared:
        console.print()
        console.print(_compared(compared))
        for remark in compared.remarks:
            console.print(remark)


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
    table = _table(title, "until", "orders", "p50 ms", "p90 ms", "p99 ms", "max ms")
    for name, title in _QUANTILES.items():
        row = found[name]
        figures = (f"{row[key]:.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms"))
        table.add_row(title, str(row["count"]), *figures)
    return table


def _sustained(found: Mapping[str, Any]) -> Table:
    table = _table(
        f"Sustained over {found['seconds']:.0f} s, {found['connections']} connections, "
        f"at most {found['window']} orders on their way",
        "",
        "",
    )
    table.add_row("orders/s, decided and notified", f"{found['orders_per_second']:.0f}")
    for name in ("accepted", "decided", "notified", "mails"):
        table.add_row(f"  {name} per second", f"{found[f'{name}_per_second']:.0f}")
    on_their_way = f"{found['on_their_way_at_begin']} → {found['on_their_way_at_end']}"
    table.add_row("orders on their way, begin → end", on_their_way)
    table.add_row("  until all were decided and notified", f"{found['drained_after_seconds']:.1f} s")
    drained = found["mails_drained_after_seconds"]
    table.add_row("mails waiting at the end", str(found["mails_waiting_at_end"]))
    table.add_row("  until all were sent", "not in time" if drained is None else f"{drained:.1f} s")
    table.add_section()
    for name, milliseconds in found["cpu_ms_per_order"].items():
        table.add_row(f"CPU per order, {name}", f"{milliseconds:.2f} ms")
    table.add_row("CPU used together", f"{found['cpu_cores_used']:.2f} cores")
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
    table = _table(title, "choreo", "events", "exits", "counted", "seconds", "per second", "peak MiB (RSS)")
    for verb in found["verbs"]:
        exits = f"{verb['exit_code']} {verb['verdict']}".rstrip()
        figures = (f"{verb[name]:.1f}" for name in ("seconds", "per_second", "peak_mib"))
        table.add_row(
            verb["command"], str(verb["events"]), exits, f"{verb['count']} {verb['what']}", *figures
        )
    return table


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
