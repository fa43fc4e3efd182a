"""The comparison as a table, as JSON, and as the page in docs/ with its drawing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from choreo.benchmarks.charts.bars import bars
from choreo.terminal import Console

_PAGE = Path(__file__).parents[3] / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- the latest run -->\n", "<!-- the end of the latest run -->\n"
_COLUMNS = (
    "", "orders/s", "202 p50 ms", "notified p50 ms", "notified p99 ms", "CPU ms/order", "lost or doubled",
)  # fmt: skip


def show(results: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in _conditions(results):
        console.print(line)
    table = Table()
    for number, column in enumerate(_COLUMNS):
        table.add_column(
            column, justify="right" if 0 < number < len(_COLUMNS) - 1 else "left", no_wrap=not number
        )
    for name, row in results["contenders"].items():
        table.add_row(name, *_cells(row))
    console.print(table)
    for name, row in results["contenders"].items():
        console.print(f"{name}: {row['what']}. Leaves to you: {row['lacks']}.")
    for name, why in results["skipped"].items():
        console.print(f"{name}: {why}")


def save(results: Mapping[str, Any]) -> None:
    """Replaces what docs/benchmarks.md holds of the latest run, and its two files beside it."""
    beside = _PAGE.parent / "benchmarks"
    beside.mkdir(exist_ok=True)
    (beside / "peers.json").write_text(json.dumps(results, indent=2) + "\n")
    (beside / "peers.svg").write_text(drawing(results))
    _PAGE.write_text(with_latest(_PAGE.read_text(), results))


def drawing(results: Mapping[str, Any]) -> str:
    """Orders/s of each run and their median."""
    runs = {
        name: [run["orders_per_second"] for run in row["runs"]] for name, row in results["contenders"].items()
    }
    return bars("Orders/s, median and range of the runs (more is better)", runs)


def with_latest(page: str, results: Mapping[str, Any]) -> str:
    """The page with these results between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    latest = "\n".join(_markdown(results))
    return f"{before}{_BEGIN}\n{latest}\n\n{_END}{after}"


def _markdown(results: Mapping[str, Any]) -> Iterator[str]:
    for line in _conditions(results):
        yield f"- {line}"
    yield "\n![Orders per second](benchmarks/peers.svg)\n"
    yield "| " + " | ".join((*_COLUMNS, "leaves to you")) + " |"
    yield "|---|" + "---:|" * (len(_COLUMNS) - 2) + "---|---|"
    for name, row in results["contenders"].items():
        yield "| " + " | ".join((f"**{name}**: {row['what']}", *_cells(row), row["lacks"])) + " |"
    if results["skipped"]:
        yield ""
    for name, why in results["skipped"].items():
        yield f"- {name}: {why}"


def _conditions(results: Mapping[str, Any]) -> Iterator[str]:
    """What the figures can only be understood with."""
    yield f"{results['date']}, commit {results['commit']}"
    yield ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    for name, setting in results["settings"].items():
        yield f"{name}: {setting}"
    versions = (
        f"{package} {version}"
        for row in results["contenders"].values()
        for package, version in row["versions"].items()
    )
    yield "versions: " + ", ".join(dict.fromkeys(versions))
    yield "medians of " + ", ".join(
        f"{len(row['runs'])} ({name})" for name, row in results["contenders"].items()
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['orders_per_second']:.0f}",
        f"{row['accepted_p50_ms']:.1f}",
        f"{row['notified_p50_ms']:.1f}",
        f"{row['notified_p99_ms']:.1f}",
        f"{row['cpu_ms_per_order']:.1f}",
        _verdict(row),
    ]


def _verdict(row: Mapping[str, Any]) -> str:
    """`nothing in 12345`, or what was found."""
    told = [f"{row[what]} {what}" for what in ("lost", "doubled") if row[what]]
    if row["money"]:
        told.append(f"money wrong {row['money']} times")
    return f"{', '.join(told) or 'nothing'} in {row['judged']}"
