"""What a stranger wrote is printed as text, and what we print keeps its colours."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.terminal import Console, _Printed, harmless


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


@pytest.mark.parametrize("colour", [True, False])
def test_our_own_colours_come_through_and_no_others(colour: bool) -> None:
    out = io.StringIO()
    file: Any = _Printed(out)
    console = Console(file=file, force_terminal=colour, color_system="standard" if colour else None)
    console.print("[red]mine[/] \x1b[31mtheirs\x1b[0m", highlight=False)
    assert out.getvalue().replace("\x1b[31mmine\x1b[0m", "mine") == "mine \\u001b[31mtheirs\\u001b[0m\n"
    print("\x1b]0;title\x07", file=file)
    assert out.getvalue().endswith("\\u001b]0;title\\u0007\n")
