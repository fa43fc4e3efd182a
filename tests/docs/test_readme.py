"""What the README tells to paste, and the pages that go on in the same shell, does what is said there."""

import pytest

from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.docs.examples import ROOT, Example, differs, examples, run_in_order

PAGES = [ROOT / page for page in ("README.md", "docs/first-order.md", "docs/debugging.md")]
_SECONDS = 600


def test_every_marked_block_is_found() -> None:
    for page in PAGES:
        text = page.read_text()
        assert len(examples(text)) == text.count("<!-- runs -->") > 4


def test_the_examples_do_what_is_written_beneath_them() -> None:
    with ThrowawaySystem() as system:
        system.start()
        where = {"CHOREO_PORT_BASE": str(system.port_base), "CHOREO_HOME": str(system.home)}
        run_in_order([told for page in PAGES for told in examples(page.read_text())], where, _SECONDS)


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


@pytest.mark.parametrize(
    ("wanted", "got", "unlike"),
    [
        ("one\n", "zero\none\n", False),
        ("on…e\n", "on the line\n", False),
        ("one\n", "one two\n", True),
        ("one\ntwo\n", "one\n", True),
    ],
)
def test_it_sees_a_missing_line(wanted: str, got: str, unlike: bool) -> None:
    assert Example("", "text", wanted).differs_from(got) is unlike
