"""How far long work is, on standard error."""

import time
from types import SimpleNamespace

import pytest

from choreo import progress
from choreo.progress import telling

Out = pytest.CaptureFixture[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_what_is_quickly_done_says_nothing(clock: SimpleNamespace, capsys: Out) -> None:
    with telling() as tell:
        clock.now += 2
        tell("replaying", 20, 100)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_rate_and_time_left_now_and_then(clock: SimpleNamespace, capsys: Out) -> None:
    with telling() as tell:
        for done in range(10, 100, 10):
            clock.now += 1
            tell("replaying", done, 60)
        clock.now += 5
        tell("comparing", 0, 0)
    assert capsys.readouterr() == (
        "",
        "replaying: 30 of 60, 10/s, about 3 s left\nreplaying: 80 of 80, 10/s, about 0 s left\ncomparing\n",
    )


def test_on_a_terminal_it_is_one_line_that_changes_and_goes(
    clock: SimpleNamespace, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with telling() as tell:
        clock.now += 4
        tell("replaying", 20, 60)
    out, err = capsys.readouterr()
    assert out == "" and "replaying: 20 of 60, 5/s, about 8 s left" in err
    assert err.endswith("\x1b[2K"), "erased"
