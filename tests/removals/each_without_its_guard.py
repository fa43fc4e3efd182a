"""Runs the tests that are to notice, each while its own guard is out: `python -m` this, with names of guards.

One process for many, since most of what it takes is to start Kafka and Postgres.
"""

import sys
from collections.abc import Iterator, Sequence

import pytest

from tests import shop
from tests.removals.guards import GUARDS, Guard

PATIENCE = 20.0
"""Seconds. Tests that are to fail may wait in vain, and need not for as long as those that are to pass."""


class EachWithoutItsGuard:
    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = {guard.noticed_by: guard for guard in guards}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self._guards[item.nodeid].take_out(patch)
            return (yield)


def main(names: Sequence[str]) -> int:
    shop.PATIENCE = PATIENCE  # before any test takes it from there
    guards = [GUARDS[name] for name in names]
    options = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-q", "-o", "addopts=", "-rfE")
    return pytest.main([*options, *(guard.noticed_by for guard in guards)], [EachWithoutItsGuard(guards)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
