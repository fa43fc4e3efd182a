"""Many processes that die one after the other."""

import os
import signal
import time
from random import Random

from choreo.chaos.faults.fault import Fault, pid_of, replaced
from choreo.operations.acting.throwaway import ThrowawaySystem

_LONGEST_PAUSE_SECONDS = 4.0


def storm(*parts: str) -> Fault:
    """Strikes all of them: one dies while others are still coming back."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        before: dict[str, int] = {}
        for part in chance.sample(parts, len(parts)):
            time.sleep(chance.random() * _LONGEST_PAUSE_SECONDS)
            before[part] = pid_of(system, part)
            os.kill(before[part], signal.SIGKILL)
        since = time.monotonic()
        for part, pid in before.items():
            replaced(system, part, pid)
        return since

    sentence = f"{len(parts)} processes get SIGKILL, one in two seconds, while others are still coming back"
    return Fault("storm", sentence, strike, kills=len(parts))
