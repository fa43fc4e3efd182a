"""The soft limit of open files is raised, never lowered."""

import resource
from collections.abc import Iterator

import pytest

from choreo.chassis.open_files import allow_many

NOFILE = resource.RLIMIT_NOFILE


@pytest.fixture
def hard() -> Iterator[int]:
    soft, hard = resource.getrlimit(NOFILE)
    yield hard
    resource.setrlimit(NOFILE, (soft, hard))


def test_a_low_limit_is_raised(hard: int) -> None:
    soft, _ = resource.getrlimit(NOFILE)
    resource.setrlimit(NOFILE, (min(soft, 1024), hard))
    assert allow_many() == resource.getrlimit(NOFILE)[0] >= (10_240 if hard == -1 else min(10_240, hard))


def test_a_high_limit_stays(hard: int) -> None:
    if hard != -1 and hard <= 10_240:
        pytest.skip(f"the hard limit of open files is {hard} here: no process has a higher one")
    resource.setrlimit(NOFILE, (10_241, hard))
    assert allow_many() == resource.getrlimit(NOFILE)[0] == 10_241
