"""The same replay a second time, in a process where everything that must not matter is different.

Another hash seed, time zone, locale and user, keys in another order, sets the other way round, and now and
then the services imported anew, so that whatever a module remembered is gone. What it finds is what the first
found, or the code does not agree with itself. It also looks where handlers read clock, chance or environment.
"""

import asyncio
import locale
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from choreo.chassis.installed import package_of
from choreo.chassis.registry import service_names, services
from choreo.chassis.service import Service
from choreo.chassis.source_lines import of_nobody_else
from choreo.errors import HandlerMisbehaves
from choreo.replay.engine.sandbox import imported_anew, refuse_always
from choreo.replay.sources.live import join_live
from choreo.replay.sources.recording import Recording, size_of
from choreo.replay.sources.records import Source
from choreo.replay.verify.closed_loop import closed_loop
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.simulation import Difference
from choreo.replay.verify.verify import Second, verify

_SEEDS = ("1", "2")
_PARTS = 5
"""Between them services are imported anew."""
_OTHERWISE = {
    "TZ": "Pacific/Kiritimati",
    "LANG": "tr_TR.UTF-8",
    "LANGUAGE": "tr",
    "LC_ALL": "tr_TR.UTF-8",
    "USER": "somebody",
    "LOGNAME": "somebody",
}


class SecondRunDied(Exception):
    """The second run ended early. The message says what it said."""


@asynccontextmanager
async def second_run(
    source: Source,
    names: Sequence[str],
    sample: float,
    preload: Sequence[str] = (),
    *,
    in_closed_loop: bool = False,
) -> AsyncIterator["asyncio.Task[list[Finding]]"]:
    """Runs it beside whatever the block does. The task raises `SecondRunDied`.

    `preload` names functions (module:function) that are called before, such as a change to be tried out.
    """
    seed = next(seed for seed in _SEEDS if seed != os.environ.get("PYTHONHASHSEED"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # not from where somebody stands: both replay the same code
        "-m",
        "choreo.replay.verify.second_run",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": _path()},
    )
    order = {"ticket": source.ticket(), "services": names, "sample": sample, "preload": preload}
    order["closed_loop"] = in_closed_loop
    task = asyncio.ensure_future(_findings(process, orjson.dumps(order, default=str)))
    try:
        yield task
    finally:
        if process.returncode is None and not task.done():
            process.kill()
        task.cancel()
        await asyncio.wait([task])
        await process.wait()


def _path() -> str:
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


async def _findings(process: asyncio.subprocess.Process, order: bytes) -> list[Finding]:
    out, err = await process.communicate(order)
    if process.returncode:
        last = err.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise SecondRunDied(f"The second replay died: {last[0]}")
    told = orjson.loads(out)
    if isinstance(told, str):
        raise HandlerMisbehaves(told)
    return [(Difference if "origin" in one else Finding).from_dict(one) for one in told]


def _live_elsewhere() -> None:
    """From now on. An interpreter that began in a locale it has not got could not read where packages are, if
    that is below a directory with a letter beyond ASCII in its name.
    """
    os.environ.update(_OTHERWISE)
    time.tzset()
    with suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")


async def main(order: dict[str, Any]) -> list[Finding]:
    _live_elsewhere()
    refuse_always()
    _preload(order)
    ticket = order["ticket"]
    if "recording" in ticket:
        return await _verify(Recording(Path(ticket["recording"]), ticket["chosen"]), order)
    async with join_live(ticket) as source:
        return await _verify(source, order)


async def _verify(source: Source, order: dict[str, Any]) -> list[Finding]:
    def chosen() -> dict[str, Service[Any]]:
        known = services(source.cut.settings)
        _turn_sets_round()
        return {name: known[name] for name in order["services"]}

    def import_anew() -> dict[str, Service[Any]]:
        preloaded = tuple(name.partition(":")[0] for name in order["preload"])
        for module in [name for name in sys.modules if _is_remembering(name) or name in preloaded]:
            del sys.modules[module]
        _preload(order)
        return imported_anew(chosen)

    if order["closed_loop"]:
        return (await closed_loop(source, chosen(), reads=True)).findings
    total = size_of(source)
    second = Second({part * total // _PARTS for part in range(1, _PARTS)}, import_anew)
    return (await verify(source, chosen(), sample=order["sample"], second=second)).findings


def _preload(order: dict[str, Any]) -> None:
    for name in order["preload"]:
        module, _, function = name.partition(":")
        getattr(import_module(module), function)()


def _is_remembering(module: str) -> bool:
    """Tells whether it is a service's, or a helper that nobody installed: what it remembers is to be gone."""
    in_python = str(getattr(sys.modules[module], "__file__", "")).endswith(".py")
    return _is_service(module) or (in_python and of_nobody_else(module))


def _is_service(module: str) -> bool:
    return module.partition(".")[0] in set(map(package_of, service_names()))


class _AnySet(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, set)


class _TurnedRound(set[Any], metaclass=_AnySet):
    """A set whose members come in the opposite order: chance alone leaves that of two as it was, mostly."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__())[::-1])


def _turn_sets_round() -> None:
    """For those that a service makes by calling `set`."""
    for name, module in list(sys.modules.items()):
        if _is_service(name):
            module.__dict__["set"] = _TurnedRound


if __name__ == "__main__":
    # What anybody prints goes beside the answer, whichever way it takes.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        found = asyncio.run(main(orjson.loads(sys.stdin.buffer.read())))
        answer.write(orjson.dumps([asdict(finding) for finding in found], default=str))
    except HandlerMisbehaves as error:
        answer.write(orjson.dumps(str(error)))
    answer.close()
