"""Blocks of a document that are run by the tests, and what they must print."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_EXAMPLE = re.compile(
    r"<!-- runs -->\n```sh\n(?P<script>.*?)```\n(?:\n```(?P<kind>json|text)\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
_ANYTHING = "…"
_BETWEEN = "-- the next example --"


@dataclass(frozen=True)
class Example:
    """A block marked `<!-- runs -->`. A block of json or text right after it is what it prints."""

    script: str
    kind: str | None
    output: str

    def differs_from(self, got: str) -> bool:
        """Of text each line has to be among those printed. Without a block nothing may be printed."""
        match self.kind:
            case "json":
                return differs(json.loads(self.output), json.loads(got))
            case "text":
                lines = got.splitlines()
                return not all(
                    any(_matches(wanted, line) for line in lines) for wanted in self.output.splitlines()
                )
            case _:
                return got.strip() != ""


def examples(text: str) -> list[Example]:
    return [
        Example(found["script"], found["kind"], found["output"] or "") for found in _EXAMPLE.finditer(text)
    ]


def differs(wanted: object, got: object) -> bool:
    """Whether two JSON values differ otherwise than where anything may stand."""
    match wanted, got:
        case dict(), dict():
            return wanted.keys() != got.keys() or any(differs(wanted[name], got[name]) for name in wanted)
        case list(), list():
            return len(wanted) != len(got) or any(map(differs, wanted, got))
        case _:
            return wanted not in (_ANYTHING, got)


def _matches(wanted: str, line: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, wanted.split(_ANYTHING))), line))


def run_in_order(told: list[Example], environment: Mapping[str, str], seconds: float) -> None:
    """As somebody pastes them one after the other into one shell. Nothing they started is left behind."""
    script = f"printf '\\n{_BETWEEN}\\n'\n".join(example.script for example in told)
    shell = subprocess.Popen(
        ["bash", "-eu", "-c", script],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = shell.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    outputs = printed.split(f"\n{_BETWEEN}\n")
    assert (shell.returncode, len(outputs)) == (0, len(told)), f"{printed}\n{errors}"
    for example, output in zip(told, outputs, strict=True):
        assert not example.differs_from(output), f"{example.script} gives {output}"
