"""An operator who pastes the blocks of docs/operations.md, in order, gets what it says."""

from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.docs.examples import ROOT, examples, run_in_order

OPERATIONS = ROOT / "docs" / "operations.md"
_SECONDS = 600


def test_the_blocks_can_be_pasted_one_after_the_other() -> None:
    text = OPERATIONS.read_text()
    assert len(examples(text)) == text.count("<!-- runs -->") > 8
    with ThrowawaySystem() as nothing_started:
        where = {
            "CHOREO_PORT_BASE": str(nothing_started.port_base),
            "CHOREO_HOME": str(nothing_started.home),
        }
        run_in_order(examples(text), where, _SECONDS)
