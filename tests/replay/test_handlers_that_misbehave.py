"""Whatever a handler tries, a replay has no effect, says where, and goes on or ends with a sentence."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from choreo.chassis import installed, registry
from choreo.chassis.settings import Settings
from choreo.chassis.source_lines import raised_through
from choreo.cli.main import app
from choreo.errors import HandlerMisbehaves, Unavailable
from choreo.replay.engine import sandbox
from choreo.replay.sources.recording import Recording
from choreo.replay.verify.report import Report, closed_loop_report, report_on
from tests.replay import plants
from tests.replay.constructed import NAMES, a_story
from tests.replay.planted_bugs import DECIDE, PLACE, STATUS, choreo, planted
from tests.shop import PATIENCE
from tests.unit.facts import ADA

ROOT = Path(__file__).parents[2]
HERE = "tests/replay/plants.py"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_story().recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson")


def verified(file: Path, plant: Callable[..., None]) -> Report:
    return asyncio.run(report_on(Recording(file), NAMES, preload=[f"{plants.__name__}:{plant.__name__}"]))


def test_what_a_handler_tries_and_hides_is_found_and_has_not_happened(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.everything_that_is_refused(monkeypatch.setattr)
    plants.TOUCHED.unlink(missing_ok=True)
    report = verified(file, plants.everything_that_is_refused)
    says = "\n".join(finding.says for finding in report.unstable)
    for what in plants.ATTEMPTS:
        what = re.escape(what.replace("HERE", str(plants.TOUCHED)).replace("LOG", f"{plants.TOUCHED}.log"))
        assert re.search(rf"{HERE}:\d+ tries to {what}.*, called from {HERE}:\d+", says), (what, says)
    assert {finding.kind for finding in report.unstable} == {"effect"}
    assert (report.exit_code, report.findings) == (2, [])
    assert not plants.TOUCHED.exists()
    assert report.unstable[0].lines[0].startswith("billing_service/decide.py:")


@pytest.mark.parametrize(
    "arguments",
    [
        ["state", "billing", "FILE", "--at", "2040-01-01T00:00:00Z"],
        ["replay", "FILE", "--service", "billing"],
        ["blame", "billing", "accounts", str(ADA), "balance", "FILE"],
        ["minimize", "FILE"],
        ["minimize", "FILE", "--expect", "MoneyDeposited: amount > 0"],
        ["verify", "FILE", "--shuffle", "2"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[2:3]),
)
def test_no_other_verb_has_an_effect_either(
    file: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plants.everything_that_is_refused(monkeypatch.setattr)
    plants.TOUCHED.unlink(missing_ok=True)
    try:
        app([str(file) if word == "FILE" else word for word in arguments], standalone_mode=False)
        told = capsys.readouterr().out
    except HandlerMisbehaves as error:
        told = str(error)
    assert (f"{HERE}:" in told and "tries to open a socket" in told) or "no order matters" in told
    assert not plants.TOUCHED.exists()


def test_a_closed_loop_has_no_effect_either(monkeypatch: pytest.MonkeyPatch) -> None:
    plants.everything_that_is_refused(monkeypatch.setattr)
    plants.TOUCHED.unlink(missing_ok=True)
    recording = Recording(ROOT / "events" / "recordings" / "every-fact-1.ndjson")
    preload = [f"{plants.__name__}:everything_that_is_refused"]
    report = asyncio.run(closed_loop_report(recording, preload=preload))
    assert report.exit_code == 2 and "tries to open a socket" in report.unstable[0].says
    assert not plants.TOUCHED.exists()


def test_what_a_handler_prints_is_kept_apart(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plants.a_print(monkeypatch.setattr)
    report = verified(file, plants.a_print)
    assert "so far" not in capfd.readouterr().out
    (found,) = report.unstable
    assert (found.kind, found.got) == ("effect", "so far 0\nso far 0")
    assert re.fullmatch(rf"{HERE}:\d+ prints, called from billing_service/decide.py:\d+", found.says)
    app(["state", "billing", str(file), "--at", "2040-01-01T00:00:00Z", "--json"], standalone_mode=False)
    told = json.loads(capfd.readouterr().out)
    assert list(told["printed"].values()) == ["so far 0\nso far 0"]


PRINTS = """    print("by hand", file=_STREAM)
    logging.getLogger("billing").error("logged")
    structlog.get_logger().error("told")
    sys.stdout.buffer.write(b"in bytes")
    sys.stdout.close()
    import this
"""


def test_whatever_a_service_prints_with_is_kept_apart(file: Path, tmp_path: Path) -> None:
    """A stream that it took while it was imported, a log, bytes, and a library that does."""
    begin = "def _deposited(command: Deposit, account: Account) -> MoneyDeposited:\n"
    imports = (
        "import logging\nimport sys\n\nimport structlog\n\n_STREAM = sys.stdout\nprint('imported')\n\n\n"
    )
    tree = planted(tmp_path, {DECIDE: [(begin, imports + begin + PRINTS)]})
    ran = choreo("verify", str(file), "--service", "billing", "--json", tree=tree)
    assert [one for one in ran.stderr.splitlines() if "the second replay" not in one] == []
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["findings"]) == (2, [])
    told = [one["got"] for one in found["not_deterministic"] if " prints" in one["says"]]
    for what in ("by hand", "logged", "told", "in bytes", "Beautiful is better than ugly.", "imported"):
        assert any(what in text for text in told), (what, told)


@pytest.mark.parametrize(
    ("plant", "error"),
    [
        (plants.an_exit, "SystemExit"),
        (plants.an_interrupt, "CancelledError"),
        (plants.no_bottom, "Recursion"),
    ],
)
def test_a_handler_that_leaves_or_finds_no_bottom_is_named(
    file: Path, plant: Callable[..., None], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch.setattr)
    report = verified(file, plant)
    (first, *_) = report.findings
    assert (report.exit_code, first.kind, first.type) == (1, "step", "Deposit")
    assert f"raises {error}" in first.says and first.handler.startswith(HERE)


def test_functions_that_call_each_other_without_an_end_are_told_once() -> None:
    def ping() -> None:
        pong()

    def pong() -> None:
        ping()

    with pytest.raises(RecursionError) as raised:
        ping()
    assert len(raised_through(raised.value)) == 4, "the test, both, and where it ended"


def test_a_handler_that_comes_to_no_end_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plants.no_end(monkeypatch.setattr)
    monkeypatch.setattr(sandbox, "STEP_SECONDS", 0.2)
    with pytest.raises(HandlerMisbehaves, match=rf"^Deposit .* is still running after 0 s at {HERE}:\d+\.$"):
        verified(file, plants.no_end)


@contextmanager
def no_end(file: Path, plant: str, settings: str = "") -> "Iterator[subprocess.Popen[str]]":
    """A verb that stands in a handler that comes to no end."""
    program = (
        "import sys\n"
        "terminal = sys.stderr\n"
        "from tests.replay import plants\n"
        "from choreo.cli import main\n"
        "from choreo.replay.engine import sandbox\n"
        "import billing_service.decide\n"
        f"{settings}\n"
        f"plants.{plant}()\n"
        "right = billing_service.decide._deposited\n"
        "def wrong(*asked):\n"
        "    terminal.write('in it\\n'); terminal.flush()\n"
        "    return right(*asked)\n"
        "billing_service.decide._deposited = wrong\n"
        "main.main()\n"
    )
    command = [sys.executable, "-c", program, "state", "billing", str(file), "--at", "2040-01-01T00:00:00Z"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None and process.stderr.readline() == "in it\n"
        yield process


@pytest.mark.parametrize("plant", ["no_end", "no_end_whatever_comes"])
def test_control_c_ends_it_at_once(file: Path, plant: str) -> None:
    with no_end(file, plant) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130, "what takes too long ends it with another exit code"
        assert process.stderr and "Traceback" not in process.stderr.read()


def test_a_handler_that_catches_what_ends_it_ends_with_the_program(file: Path) -> None:
    with no_end(
        file, "no_end_whatever_comes", "sandbox.STEP_SECONDS = sandbox._AGAIN_SECONDS = 0.1"
    ) as process:
        assert process.wait(PATIENCE) == HandlerMisbehaves.exit_code
        told = process.stderr.read() if process.stderr else ""
    assert re.fullmatch(
        rf"choreo: Deposit .* is still running after .* at {HERE}:\d+, and catches .*\n", told
    )


def test_what_does_not_end_in_the_second_replay_alone_is_named_as_well(file: Path, tmp_path: Path) -> None:
    before = "        case Deposit():\n            return [_deposited(command, account)]"
    waits = "import time\n            while time.timezone == -14 * 3600: pass\n            "
    patience = "import choreo.replay.engine.sandbox as sandbox\nsandbox.STEP_SECONDS = 1.0\n\n\n"
    edits = [(before, before.replace("return", f"{waits}return")), ("def decide(", f"{patience}def decide(")]
    ran = choreo("verify", str(file), "--service", "billing", tree=planted(tmp_path, {DECIDE: edits}))
    assert ran.returncode == HandlerMisbehaves.exit_code
    last = ran.stderr.splitlines()[-1]
    assert re.fullmatch(rf"choreo: Deposit .* is still running after 1 s at {DECIDE}:\d+\.", last), ran.stderr


NO_HANDLER = {
    "while it is imported": (PLACE, "def decide(", "ATTEMPT\n\n\ndef decide("),
    "while a helper of its own is imported": (
        PLACE,
        "def decide(",
        "import a_helper\n\n\ndef decide(",
    ),
    "at the property of a row": (
        STATUS,
        "    def status(self) -> Status:\n",
        "    def status(self) -> Status:\n        ATTEMPT\n",
    ),
    "at the end": (
        PLACE,
        "def decide(",
        "class Late:\n    def __del__(self):\n        ATTEMPT\n\n\nlate = Late()\n\n\ndef decide(",
    ),
    "in a turn of asyncio": (
        PLACE,
        "            return [_created(",
        "            import asyncio\n\n            asyncio.get_running_loop().call_soon(lambda: ATTEMPT)\n"
        "            return [_created(",
    ),
}
"""Where a service's code runs that is no handler: the file, what stands there, and what instead."""


@pytest.mark.parametrize("where", NO_HANDLER)
def test_nothing_happens_where_no_handler_is_called_either(file: Path, tmp_path: Path, where: str) -> None:
    name, before, after = NO_HANDLER[where]
    touched = tmp_path / "touched"
    attempt = f"open({str(touched)!r}, 'w')"
    tree = planted(tmp_path, {name: [(before, after.replace("ATTEMPT", attempt))]})
    (tree / "a_helper.py").write_text(f"{attempt}\n")
    if where == "at the property of a row":
        ran = choreo("verify", str(file), "--service", "order", tree=tree)
    else:
        ran = choreo("state", "order", str(file), "--at", "2040-01-01T00:00:00Z", tree=tree)
    assert not touched.exists()
    if where not in ("at the end", "in a turn of asyncio"):
        assert ran.returncode != 0 and f"tries to write the file {touched}" in ran.stdout + ran.stderr
        assert f"{'a_helper.py' if 'helper' in where else name}:" in ran.stdout + ran.stderr


def test_of_a_service_that_does_not_compile_a_verb_says_one_sentence(file: Path, tmp_path: Path) -> None:
    tree = planted(tmp_path, {PLACE: [("def decide(", "def decide((")]})
    ran = choreo("verify", str(file), tree=tree)
    assert (ran.returncode, ran.stdout) == (Unavailable.exit_code, "")
    assert re.fullmatch(r"choreo: order_service.service cannot be .*decide.py:\d+\.\n", ran.stderr), (
        ran.stderr
    )


def test_a_service_that_cannot_be_imported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bakery_service").mkdir()
    (tmp_path / "bakery_service" / "service.py").write_text("def service(:\n")
    (tmp_path / "bakery_service" / "other.py").write_text("1 / 0\n")
    (tmp_path / "bakery_service" / "leaves.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    bakery = EntryPoint("bakery", "bakery_service.service:service", installed.GROUP)
    monkeypatch.setattr(installed, "named", lambda: {"bakery": bakery})
    with pytest.raises(
        Unavailable, match=r"^bakery_service.service cannot .*: invalid syntax at .*service.py:1\.$"
    ):
        registry.service_of("bakery", Settings())
    with pytest.raises(Unavailable, match=r"ZeroDivisionError\('division by zero'\) at .*other.py:1\.$"):
        installed.room_of("bakery", "other")
    with pytest.raises(Unavailable, match=r"SystemExit\(\) at .*leaves.py:1\.$"):
        installed.room_of("bakery", "leaves")
