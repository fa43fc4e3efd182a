"""What docs/ tell of the latest figures: kept as JSON, from which the tables are written."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from choreo.benchmarks.resources import LOAD, without_load
from choreo.benchmarks.results import scaling
from choreo.errors import Unavailable

_DOCS = Path(__file__).parents[3] / "docs"
_FIGURES = _DOCS / "benchmarks" / "shop.json"
_BEGIN, _END = "<!-- the latest figures -->\n", "<!-- the end of the latest figures -->\n"
_CONDITIONS = ("date", "commit", "machine", "seconds", "command")
_BESIDE = {"judged", "compared", *_CONDITIONS}

Kept = Mapping[str, Mapping[str, Any]]
"""By measurement: `of`, the conditions, and `found`."""
Rows = Iterator[tuple[str, str]]


def require_pages() -> None:
    """Raises `Unavailable` where there are none to be written."""
    if not _FIGURES.parent.is_dir():
        raise Unavailable("The pages are not part of an installed choreo: run this from a checkout.")


def keep(results: Mapping[str, Any]) -> None:
    """In the place of what was kept of the same measurements; the others stay as they are."""
    kept: dict[str, Any] = json.loads(_FIGURES.read_text()) if _FIGURES.exists() else {}
    of = {name: results[name] for name in _CONDITIONS}
    kept |= {name: {"of": of, "found": found} for name, found in results.items() if name not in _BESIDE}
    _FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
    for name, lines in (("benchmarks.md", figures(kept)), ("scaling.md", costs(kept))):
        page = _DOCS / name
        page.write_text(with_latest(page.read_text(), "\n".join(lines)))


def with_latest(page: str, latest: str) -> str:
    """The page with this between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{latest}\n\n{_END}{after}"


def figures(kept: Kept) -> Iterator[str]:
    """A table with a row for each, and what it was measured with."""
    marks: dict[str, int] = {}
    yield "| | | with |"
    yield "|---|---|---|"
    for name, rows in _ROWS.items():
        if name in kept:
            mark = marks.setdefault(_conditions(kept[name]["of"]), len(marks) + 1)
            for what, figure in rows(kept[name]["found"]):
                yield f"| {what} | {figure} | {mark} |"
    yield ""
    for conditions, mark in marks.items():
        yield f"{mark}. {conditions}"


def costs(kept: Kept) -> Iterator[str]:
    """Of an order with its mail, at the most that may come."""
    if "capacity" not in kept or not kept["capacity"]["found"]["with_mails"]["rate"]:
        yield "`choreo bench --only capacity --only sustained --keep` writes here what it measures."
        return
    yield f"From {_conditions(kept['capacity']['of'])}:"
    yield ""
    more = kept["sustained"]["found"]["more"] if "sustained" in kept else None
    size = more["costs"]["bytes_per_order"] if more else {}
    cpu = kept["capacity"]["found"]["with_mails"]["cpu_ms_per_order"]
    yield from scaling.told(cpu, size.get("wal"), size.get("topics"))


def _conditions(of: Mapping[str, Any]) -> str:
    on = of["machine"]
    return (
        f"{of['date']}, commit {of['commit']}, {on['cores']} cores ({on['cpu']}), {on['memory_gib']} GiB, "
        f"{on['system']}, Python {on['python']}, load before {on['load_before']}: `{of['command']}`"
    )


def _start_up(found: Mapping[str, Any]) -> Rows:
    seconds = f"{found['first_seconds']:.1f} s, {found['second_seconds']:.1f} s"
    yield "first and second start to ready, after installation", seconds


def _at_rest(found: Mapping[str, Any]) -> Rows:
    memory = f"{found['memory_total_mib']:.0f} MiB ({found['memory_kind']})"
    yield "all processes together at rest", f"{memory}, {found['cpu_total_percent']:.1f} % of a core"


def _delay(row: Mapping[str, Any]) -> str:
    return f"p50 {row['p50_ms']:.0f} ms, p99 {row['p99_ms']:.0f} ms, p99.9 {row['p999_ms']:.0f} ms"


def _latency(found: Mapping[str, Any]) -> Rows:
    yield f"{found['rate']:.0f} orders/s, POST to notification stored", _delay(found["notified"])


def _rates(found: Mapping[str, Any]) -> Rows:
    for rate, one in found.items():
        yield f"{rate} orders/s, POST to notification stored", _delay(one["delays"]["notified"])


def _capacity(found: Mapping[str, Any]) -> Rows:
    words = {"without_mails": "decided and stored, mailer held", "with_mails": "decided, stored and mailed"}
    for name, what in words.items():
        most = found[name]
        if not most["rate"]:
            yield f"the most orders that may come: {what}", f"less than {most['too_much']:.0f}/s"
            continue
        bound = f", {most['too_much']:.0f} are too much" if most["too_much"] else ""
        yield f"the most orders that may come: {what}", f"{most['rate']:.0f}/s{bound}"
        cpu = most["cpu_ms_per_order"]
        each = ", ".join(
            f"{part} {1000 * ms:.0f}" for part, ms in cpu.items() if part != LOAD and ms >= 0.001
        )
        yield f"CPU of an order then ({name.replace('_', ' ')})", f"{1000 * without_load(cpu):.0f} µs: {each}"
    if half := found["at_half"]:
        delay = _delay(half["delays"]["notified"])
        yield f"half of that ({half['rate']:.0f}/s), POST to notification stored", delay


def _sustained(found: Mapping[str, Any]) -> Rows:
    rates = [f"{found[f'{what}_per_second']:.0f} {what}" for what in ("accepted", "decided", "notified")]
    more = found["more"]
    if more:
        rates.append(f"{more['mailed_per_second']:.0f} mailed")
    yield "closed loop, orders/s", ", ".join(rates)
    if not more:
        return
    costs, asked = more["costs"], more["statements"]
    inputs = ", ".join(
        f"{service} {kernel['per_second']:.0f}/s of {kernel['inputs']:.0f}"
        for service, kernel in costs["transactions"].items()
        if kernel["per_second"] >= 1
    )
    yield "transactions, and inputs in each", inputs
    statements = f"{sum(asked['per_order'].values()):.2f} statements, " if asked else ""
    yield "an order takes", f"{statements}{costs['fsyncs_per_order']:.3f} fsyncs of Postgres"
    size = ", ".join(f"{size} {what}" for what, size in costs["bytes_per_order"].items())
    yield "bytes of an order", size


def _overload(found: Mapping[str, Any]) -> Rows:
    what = f"{found['rate']:.0f} orders/s for {found['seconds']:.0f} s, three times what is sustained"
    yield (
        what,
        (
            f"{found['decided_in_time']} of {found['accepted']} accepted decided in time, the slowest after "
            f"{found['slowest_decision_seconds']:.0f} s; {found['turned_away']} got 503"
        ),
    )


def _recovery(found: Mapping[str, Any]) -> Rows:
    for service, one in found.items():
        again = one["again_after_seconds"]
        what = f"SIGKILL of {service} at {one['rate']:.0f} orders/s, 90 % of them again"
        yield what, "not in time" if again is None else f"after {again:.1f} s"


def _kernel(found: Mapping[str, Any]) -> Rows:
    fixed, each = found["client_us_fixed"], found["client_us_per_input"]
    postgres = f"{found['postgres_us_fixed']:.0f} and {found['postgres_us_per_input']:.0f} µs of Postgres"
    yield (
        "a transaction of billing's kernel",
        f"{fixed:.0f} µs, and {each:.0f} µs for each input ({postgres})",
    )


def _consumer(found: Mapping[str, Any]) -> Rows:
    for rate, one in found.items():
        what = f"a record from Kafka to the kernel, {rate}/s"
        yield what, f"{one['cpu_us']:.0f} µs; p50 {one['p50_ms']:.0f} ms"


def _replay(found: Mapping[str, Any]) -> Rows:
    for verb in found["verbs"]:
        done = f"{verb['count']} {verb['what']} in {verb['seconds']:.1f} s"
        what = f"`choreo {verb['command']}`, {verb['events']} events in the log, exit {verb['exit_code']}"
        rate = f"{verb['per_cpu_second']:.0f} a CPU second"
        if further := verb.get("further_per_cpu_second"):
            rate += f" ({further:.0f} of those that are further)"
        yield what, f"{done}, {rate}, {verb['peak_mib']:.0f} MiB"


def _age(found: Mapping[str, Any]) -> Rows:
    for stage in found["stages"]:
        last = stage["old"][-1]
        sizes = f"{last['accounts']:,} accounts, {last['journal_rows']:,} journal rows"
        was = stage["young"][0]
        than = f"{was['accounts']:,} and {was['journal_rows']:,}"
        yield f"CPU of an order at {sizes}, to that at {than}", f"{stage['ratio']:.2f} times"


_ROWS: Mapping[str, Callable[[Any], Rows]] = {
    "startup": _start_up,
    "rest": _at_rest,
    "latency": _latency,
    "rates": _rates,
    "capacity": _capacity,
    "sustained": _sustained,
    "overload": _overload,
    "recovery": _recovery,
    "kernel": _kernel,
    "consumer": _consumer,
    "replay": _replay,
    "age": _age,
}
