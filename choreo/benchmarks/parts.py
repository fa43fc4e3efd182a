"""What parts of a service cost alone: its kernel on a Postgres, its consumer on a Kafka."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from choreo.benchmarks.users import Refused


@dataclass(frozen=True)
class Kernel:
    """CPU of a transaction in microseconds: a line through the smallest and the largest batch."""

    client_us_fixed: float
    client_us_per_input: float
    postgres_us_fixed: float
    postgres_us_per_input: float
    by_inputs: Mapping[str, Mapping[str, float]]
    """By inputs of a transaction: CPU of the client and of Postgres, and how long it took."""


def kernel() -> Kernel:
    """`python -m choreo.benchmarks.kernel`."""
    return line_through(_run("kernel"))


def consumer() -> dict[str, Mapping[str, float]]:
    """`python -m choreo.benchmarks.consumer`: by records a second."""
    return dict(_run("consumer"))


def line_through(found: Mapping[str, Mapping[str, float]]) -> Kernel:
    few, many = min(found, key=int), max(found, key=int)

    def line(what: str) -> tuple[float, float]:
        each = (found[many][what] - found[few][what]) / (int(many) - int(few))
        return round(found[few][what] - int(few) * each, 1), round(each, 1)

    return Kernel(*line("client"), *line("postgres"), by_inputs=found)


def _run(name: str) -> Mapping[str, Any]:
    """Raises `Refused` where it does not get to its end."""
    command = [sys.executable, "-m", f"choreo.benchmarks.{name}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{name}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
