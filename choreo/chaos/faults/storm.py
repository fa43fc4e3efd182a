"""Many processes that die at about the same time."""

import os
import signal
import time
from random import Random

from choreo.chaos.faults.fault import Fault, pid_of, replaced
from choreo.operations.acting.throwaway import ThrowawaySystem

_KILLS = 6
_LONGEST_PAUSE_SECONDS = 1.0


def storm(*parts: str) -> Fault:
    """Strikes some of them: one dies while others are still coming back."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        before: dict[str, int] = {}
        for part in chance.sample(parts, _KILLS):
            time.sleep(chance.random() * _LONGEST_PAUSE_SECONDS)
            before[part] = pid_of(system, part)
            os.kill(before[part], signal.SIGKILL)
        since = time.monotonic()
        for part, pid in before.items():
            replaced(system, part, pid)
        return since

    sentence = f"any {_KILLS} of {len(parts)} processes get SIGKILL within seconds"
    return Fault("storm", sentence, strike, kills=_KILLS)
