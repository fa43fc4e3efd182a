"""A flame graph of each service, drawn by py-spy while a load goes on."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from choreo.errors import Unavailable

_SECONDS = 10
_PER_SECOND = 100


class Profiler:
    """Of these processes, into this directory. What it costs is part of what it shows."""

    def __init__(self, pids: Mapping[str, int], directory: Path) -> None:
        """Raises `Unavailable` where py-spy is not installed, or may not look into these processes."""
        self._pids, self._directory = pids, directory
        self._program = py_spy()
        for pid in pids.values():
            looked = subprocess.run(
                [self._program, "dump", "--pid", str(pid)], capture_output=True, text=True
            )
            if looked.returncode:
                raise Unavailable(
                    f"py-spy may not look into the services: {_last_line(looked.stderr)} "
                    "Run this as root, or with kernel.yama.ptrace_scope=0."
                )

    async def draw(self) -> list[Path]:
        """All at once; takes ten seconds. Raises ConnectionError where a service was lost."""
        self._directory.mkdir(parents=True, exist_ok=True)
        files = {name: self._directory / f"{name}.svg" for name in self._pids}
        await asyncio.gather(*(self._draw(self._pids[name], file) for name, file in files.items()))
        return list(files.values())

    async def _draw(self, pid: int, file: Path) -> None:
        options = {"--pid": pid, "--output": file, "--duration": _SECONDS, "--rate": _PER_SECOND}
        words = [str(word) for option in options.items() for word in option]
        process = await asyncio.create_subprocess_exec(
            self._program,
            "record",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await process.communicate()
        if process.returncode:
            raise ConnectionError(f"py-spy drew nothing of process {pid}: {_last_line(told.decode())}")


def py_spy() -> str:
    """Where it is. Raises `Unavailable`."""
    beside = Path(sys.executable).parent
    found = shutil.which("py-spy", path=beside) or shutil.which("py-spy")
    if found is None:
        raise Unavailable("A profile is drawn by py-spy, which is not installed: `pip install py-spy`.")
    return found


def _last_line(told: str) -> str:
    return (told.strip().splitlines() or ["it said nothing."])[-1]
