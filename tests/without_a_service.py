"""`python -m tests.without_a_service [NAME]`: where one of its services never was, the shop is whole.

In a checkout of its own, from which the service is taken with its facts: up, doctor and verify, then every
test that does not speak of it. That takes some minutes; the suite does what takes seconds.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.checkout import Checkout

_KINDS = ("unit", "component", "choreography")


def main(name: str = "notification") -> int:
    with TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder, "shop"))
        checkout.take_away(name)
        checkout.install()
        checkout.run(".venv/bin/choreo", "docs")
        with checkout.running() as system:
            for verb in ("doctor", "verify"):
                print(checkout.run(".venv/bin/choreo", verb, **system.environment))
        silent = _silent_about(name, checkout.root / "tests")
        tests = [str(file.relative_to(checkout.root)) for file in silent]
        print(checkout.run("make", "--assume-old", ".venv/installed", "test", f"ARGS={' '.join(tests)}"))
    return 0


def _silent_about(name: str, tests: Path) -> Iterator[Path]:
    """The files of tests that do not speak of it, nor import what does not work without it."""
    sources = {file: file.read_text() for file in sorted(tests.rglob("*.py"))}
    gone = rf"\b(?:events\.{name}|{name}_service)\b"
    while broken := [file for file, source in sources.items() if re.search(gone, source)]:
        for file in broken:
            del sources[file]
        modules = (".".join(file.relative_to(tests.parent).with_suffix("").parts) for file in broken)
        gone = rf"\b(?:{'|'.join(map(re.escape, modules))})\b"
    for file, source in sources.items():
        if (
            file.parent.name in _KINDS
            and file.name.startswith("test_")
            and not re.search(rf"\b{name}", source)
        ):
            yield file


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
