"""`choreo audit`: what is known of the packages that are locked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from choreo.errors import Unavailable

_LOCK = Path(__file__).parents[3] / "requirements.lock"
_TIMEOUT_SECONDS = 300


def audit(
    as_json: Annotated[bool, typer.Option("--json", help="Print what pip-audit says.")] = False,
) -> None:
    """Look up known vulnerabilities of every package in requirements.lock.

    Exits 1 where there is one, and 69 where the advisory service does not answer: then nothing is known.
    """
    told = _advisories()
    if as_json:
        print(json.dumps(told, indent=2))
    found = [(package, flaw) for package in told for flaw in package.get("vulns", ())]
    for package, flaw in found if not as_json else ():
        cure = ", ".join(flaw["fix_versions"]) or "none yet"
        print(f"{package['name']} {package['version']}: {flaw['id']}, mended in: {cure}")
    unknown = [package["name"] for package in told if "skip_reason" in package]
    if unknown:
        raise Unavailable(
            f"The advisory service says nothing of {len(unknown)} of {len(told)} packages, {unknown[0]} "
            f"among them: run this where it can be reached."
        )
    if found:
        raise typer.Exit(1)
    if not as_json:
        print(f"Nothing is known against the {len(told)} packages.")


def _advisories() -> list[dict[str, Any]]:
    """By package. Raises `Unavailable`."""
    if not _LOCK.exists():
        raise Unavailable(f"{_LOCK.name} is not here: run this in a checkout.")
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command = [sys.executable, "-m", "pip_audit", "-r", str(_LOCK), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
        told: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        raise Unavailable(f"The advisory service did not answer within {_TIMEOUT_SECONDS} s.") from None
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Unavailable(f"pip-audit could not look: {last}") from None
    return told
