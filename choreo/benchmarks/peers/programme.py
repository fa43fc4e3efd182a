"""All contenders in turn, again and again, so that what changes on the machine meets them all."""

import subprocess
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
import uvloop

from choreo.benchmarks.load import MOST_CONNECTIONS
from choreo.benchmarks.peers.catalog import CONTENDERS
from choreo.benchmarks.peers.contender import USERS, Contender
from choreo.benchmarks.peers.measure import RATE, Figures, Lengths, measure
from choreo.benchmarks.peers.report import save, show
from choreo.benchmarks.sustained import CONNECTIONS, WINDOW
from choreo.benchmarks.users import Refused
from choreo.embedded.kafka_runtime import COORDINATES
from choreo.embedded.postgres import binaries
from choreo.errors import Unavailable, UsageError
from choreo.machine import commit, machine
from choreo.progress import Progress

_FULL = Lengths(warm_up=3, sustained=10, latency=8, killed=8)
_QUICK = Lengths(warm_up=2, sustained=4, latency=3, killed=4)
_FULL_BUDGET, _QUICK_BUDGET = 600.0, 120.0
"""Seconds for all runs of one contender; no run is begun that would take more, by the longest before it."""

Runs = dict[str, list[Figures]]


def run(names: Collection[str], runs: int, *, quick: bool, as_json: bool, keep: bool) -> None:
    """Measures, prints, and with `keep` writes the page in docs/. Raises UsageError for an unknown name."""
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise UsageError(f"There is no peer {unknown[0]}: name one of {', '.join(CONTENDERS)}.")
    progress = Progress()
    began, on = datetime.now(UTC), machine()
    try:
        wanted, skipped = _prepare([CONTENDERS[name] for name in names or CONTENDERS], progress)
        found = _rounds(wanted, runs, quick, skipped, progress)
    finally:
        progress.done()
    results = {
        "date": f"{began:%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "machine": on,
        "settings": _settings(_QUICK if quick else _FULL),
        "contenders": {one.name: _row(one, found[one.name]) for one in wanted if found[one.name]},
        "skipped": skipped,
    }
    show(results, as_json=as_json)
    if keep:
        save(results)


def _prepare(contenders: Sequence[Contender], progress: Progress) -> tuple[list[Contender], dict[str, str]]:
    """Those that can run, and for each of the others a sentence why not."""
    can_run, skipped = [], {}
    for contender in contenders:
        try:
            contender.prepare(progress.stage)
            can_run.append(contender)
        except Unavailable as error:
            skipped[contender.name] = str(error)
    return can_run, skipped


def _rounds(
    contenders: Sequence[Contender], runs: int, quick: bool, skipped: dict[str, str], progress: Progress
) -> Runs:
    """Whoever fails in one run goes on in the next; `skipped` says what is missing."""
    budget = _QUICK_BUDGET if quick else _FULL_BUDGET
    found: Runs = {contender.name: [] for contender in contenders}
    spent: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(1, runs + 1):
        for contender in contenders:
            name, since = contender.name, time.monotonic()
            if spent[name] and sum(spent[name]) + max(spent[name]) > budget:
                skipped.setdefault(name, f"only {len(found[name])} of {runs} runs fit into {budget:.0f} s.")
                continue
            try:
                found[name].append(_one_run(contender, number, runs, quick, progress))
            except* (Unavailable, Refused, LookupError, ValueError, OSError, psycopg.Error) as group:
                skipped[name] = f"run {number} of {runs} was given up: {_first(group)}"
            spent[name].append(time.monotonic() - since)
    return found


def _one_run(contender: Contender, number: int, runs: int, quick: bool, progress: Progress) -> Figures:
    def tell(what: str) -> None:
        progress.stage(f"run {number} of {runs}, {contender.name}: {what}")

    tell("starting")
    with tempfile.TemporaryDirectory(prefix="choreo-peers-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # where we are root Postgres is somebody else
        with contender.running(Path(directory)) as running:
            return uvloop.run(measure(running, _QUICK if quick else _FULL, tell))


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or repr(error)


def _row(contender: Contender, runs: Sequence[Figures]) -> dict[str, Any]:
    """Medians of what was measured, sums of what was judged."""
    return {
        "what": contender.what,
        "lacks": contender.lacks,
        "versions": contender.versions(),
        "orders_per_second": median(figures.orders_per_second for figures in runs),
        "cpu_ms_per_order": median(figures.cpu_ms_per_order for figures in runs),
        "accepted_p50_ms": median(figures.accepted.p50_ms for figures in runs),
        "notified_p50_ms": median(figures.notified.p50_ms for figures in runs),
        "notified_p99_ms": median(figures.notified.p99_ms for figures in runs),
        "judged": sum(figures.verdict.orders for figures in runs),
        "lost": sum(len(figures.verdict.lost) for figures in runs),
        "doubled": sum(len(figures.verdict.doubled) for figures in runs),
        "money": sum(len(figures.verdict.money) for figures in runs),
        "runs": [_told(figures) for figures in runs],
    }


def _told(figures: Figures) -> dict[str, Any]:
    """Of what was lost or doubled the first sentences."""
    verdict = {
        name: told[:5] if isinstance(told, list) else told for name, told in asdict(figures.verdict).items()
    }
    return asdict(figures) | {"verdict": verdict}


def _settings(lengths: Lengths) -> dict[str, str]:
    """Of whatever everybody shares."""
    kafka = COORDINATES.split("+")[0].rpartition(":")[2]
    postgres = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True).stdout
    return {
        "load": f"{USERS} customers, {CONNECTIONS} connections, at most {WINDOW} orders on their way "
        f"for {lengths.sustained:.0f} s; then {RATE:.0f} orders/s for {lengths.latency:.0f} s over at most "
        f"{MOST_CONNECTIONS} connections; then the same for {lengths.killed:.0f} s with a SIGKILL half-way",
        "postgres": f"{postgres.split()[-1]}, fsync on, synchronous_commit on, a new one for each run",
        "kafka": f"{kafka}, one broker, 12 partitions a topic",
        "redis": "appendonly yes, appendfsync always",
        "restate": "one node, its log synced before it is acknowledged",
        "killed": "all programs of a contender at once, with its Redis or Restate; not Postgres, not Kafka",
    }
