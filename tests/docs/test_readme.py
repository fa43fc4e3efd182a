"""What the README tells to paste does what the README says, on a system started for it."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from choreo.throwaway import ThrowawaySystem

README = Path(__file__).parents[2] / "README.md"

_EXAMPLE = re.compile(
    r"<!-- runs -->\n```sh\n(?P<script>.*?)```\n(?:\n```(?P<kind>json|text)\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
_ANYTHING = "…"
_BETWEEN = "-- the next example --"
_SECONDS = 60


@dataclass(frozen=True)
class Example:
    """A block marked `<!-- runs -->`. A block of json or text right after it is what it prints."""

    script: str
    kind: str | None
    output: str


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


def test_every_marked_block_is_found() -> None:
    text = README.read_text()
    assert len(examples(text)) == text.count("<!-- runs -->") > 5


def test_the_examples_do_what_is_written_beneath_them() -> None:
    told = examples(README.read_text())
    with ThrowawaySystem() as system:
        system.start()
        where = {"CHOREO_PORT_BASE": str(system.port_base), "CHOREO_HOME": str(system.home)}
        script = f"printf '\\n{_BETWEEN}\\n'\n".join(example.script for example in told)
        ran = subprocess.run(
            ["bash", "-eu", "-c", script],
            env=os.environ | where,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    outputs = ran.stdout.split(f"\n{_BETWEEN}\n")
    assert (ran.returncode, len(outputs)) == (0, len(told)), f"{ran.stdout}\n{ran.stderr}"
    for example, output in zip(told, outputs, strict=True):
        match example.kind:
            case "json":
                got = json.loads(output)
                assert not differs(json.loads(example.output), got), f"{example.script} gives {got}"
            case "text":
                assert set(example.output.splitlines()) <= set(output.splitlines()), output
            case _:
                assert output.strip() == "", f"{example.script} gives {output}"


@pytest.mark.parametrize(
    ("wanted", "got", "unlike"),
    [
        ({"id": "…"}, {"id": 7}, False),
        ({"id": "…"}, {}, True),
        ({"id": "…"}, {"id": 7, "more": 1}, True),
        ([{"status": "sent"}], [{"status": "sent"}], False),
        ([{"status": "sent"}], [{"status": "pending"}], True),
        ([], [1], True),
        ("0.00", None, True),
    ],
)
def test_it_sees_a_difference(wanted: object, got: object, unlike: bool) -> None:
    assert differs(wanted, got) is unlike
