"""The facts of the service that `choreo new` writes out are in the form that every fact has to have."""

import pytest

from choreo.message.catalog import published_by
from choreo.message.fact import Fact
from choreo.message.schema import fault_of
from choreo.templates.pinboard_events import PinboardFact

assert PinboardFact, "which makes them known"


@pytest.mark.parametrize("fact", published_by("pinboard"))
def test_a_fact_of_the_template_tells_its_story_and_reads_as_its_version_says(fact: type[Fact]) -> None:
    assert fact.TELLS
    assert (fault := fault_of(fact)) is None, fault
