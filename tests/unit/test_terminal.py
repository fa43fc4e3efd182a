"""What a stranger wrote is printed as text, and what we print keeps its colours."""

import io
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.terminal import Console, _Printed, fitting, harmless


@given(st.text())
def test_what_is_printed_holds_no_command(text: str) -> None:
    told = harmless(text)
    assert all(one.isprintable() or one.isspace() for one in told.translate({0xAD: None}) if one < "\xa0")
    assert "\x1b" not in told and "\u202e" not in told
    assert harmless(told) == told
    if text.isprintable():
        assert told == text or any(one in text for one in "\u200e\u200f")


@given(st.text())
def test_json_is_the_same_json(text: str) -> None:
    told = json.dumps(text, ensure_ascii=False)
    assert json.loads(harmless(told)) == text


def test_on_a_terminal_a_sentence_fits_and_ids_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    long = f"  recorded  OrderCreated {UUID(int=7)} leads to another {UUID(int=8)} than this one now"
    assert fitting(long, out, 12) == long, "in a pipe a line is a line"
    monkeypatch.setattr(out, "isatty", lambda: True)
    lines = fitting(long, out, 12).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith(" " * 12) and str(UUID(int=8)) in lines[1]
    assert " ".join(line.strip() for line in lines) == long.strip()


@pytest.mark.parametrize("colour", [True, False])
def test_our_own_colours_come_through_and_no_others(colour: bool) -> None:
    out = io.StringIO()
    file: Any = _Printed(out)
    console = Console(file=file, force_terminal=colour, color_system="standard" if colour else None)
    console.print("[red]mine[/] \x1b[31mtheirs\x1b[0m", highlight=False)
    assert out.getvalue().replace("\x1b[31mmine\x1b[0m", "mine") == "mine \\u001b[31mtheirs\\u001b[0m\n"
    print("\x1b]0;title\x07", file=file)
    assert out.getvalue().endswith("\\u001b]0;title\\u0007\n")
