"""A home keeps its style, and what makes no sense in one is said before anything is started."""

from pathlib import Path

import pytest

from choreo.chassis.settings import Settings
from choreo.embedded.home import Home
from choreo.errors import Incomplete, Unavailable, UsageError
from choreo.operations.acting.reporter import Reporter
from choreo.operations.acting.system import System
from choreo.operations.reading.installation import Installation
from choreo.styles.composition import COLLABORATION, COMPOSITIONS, STYLES, require_style
from choreo.styles.size import lines_of


def a_system(home: Path, style: str | None, brokers: int | None = None) -> System:
    return System(Settings(home=home), Reporter(as_json=False), brokers, style)


def test_an_unknown_style_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=", ".join(STYLES)):
        require_style("carrier-pigeons")


def test_a_home_of_another_style_is_refused_with_the_cure(tmp_path: Path) -> None:
    Home(Settings(home=tmp_path)).remember_style("http")
    with pytest.raises(Unavailable, match=r"is of style http.*--fresh"):
        a_system(tmp_path, "notifications").run(fresh=False, counts={})


def test_a_home_that_does_not_say_its_style_is_of_the_product(tmp_path: Path) -> None:
    home = Home(Settings(home=tmp_path))
    assert home.style() is None
    home.postgres.mkdir(parents=True)
    assert home.style() == COLLABORATION
    with pytest.raises(Unavailable, match="is of style collaboration"):
        a_system(tmp_path, "http").run(fresh=False, counts={})


def test_without_a_wish_a_home_goes_on_in_its_style_and_fresh_forgets_it(tmp_path: Path) -> None:
    home = Home(Settings(home=tmp_path))
    home.remember_style("http")
    with pytest.raises(UsageError, match="style http"):
        a_system(tmp_path, None, brokers=3).run(fresh=False, counts={})
    home.forget_data()
    assert home.style() is None


@pytest.mark.parametrize("style", COMPOSITIONS)
def test_where_services_are_called_there_is_one_process_of_each(tmp_path: Path, style: str) -> None:
    with pytest.raises(UsageError, match="one process of each"):
        a_system(tmp_path, style).run(fresh=False, counts={"order": 2})
    assert Home(Settings(home=tmp_path)).style() is None, "nothing was started"


def test_without_kafka_a_verb_says_what_is_missing() -> None:
    with pytest.raises(Incomplete, match="keeps no events"):
        Installation(Settings(), {}, style="http").kafka  # noqa: B018


def test_what_wires_each_style_is_there() -> None:
    assert {style: lines_of(style) > 0 for style in STYLES} == dict.fromkeys(STYLES, True)
