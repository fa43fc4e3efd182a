"""More or fewer processes of a service of the running system: its supervisor is left a wish."""

import time
from collections.abc import Mapping
from typing import Any

from choreo.chassis.registry import own_port_of
from choreo.chassis.settings import Settings
from choreo.embedded.home import Home
from choreo.embedded.part import AnswersHttp
from choreo.embedded.ports import require_free
from choreo.errors import Unavailable, UsageError
from choreo.operations.reading.installation import running_system
from choreo.operations.replicas import replicas_of
from choreo.styles.composition import COLLABORATION, one_process_each

_WITHIN = 60.0
_LOOK_AGAIN = 0.1


def scale_to(settings: Settings, wanted: Mapping[str, int]) -> dict[str, int]:
    """How many there were, of the same services. Raises `Unavailable`, also where it takes too long."""
    home = Home(settings)
    running = running_system(settings)
    before = _own_ports(home, running)
    if running and running["style"] != COLLABORATION:
        raise UsageError(one_process_each(running["style"]))
    for replica in replicas_of(wanted):
        if replica.number > len(before[replica.service]):
            require_free(own_port_of(replica.service, settings, replica.number), replica.name)
    home.leave_wish(wanted)
    deadline = time.monotonic() + _WITHIN
    for service, count in wanted.items():
        while len(ports := _own_ports(home, running_system(settings))[service]) != count:
            _pause(deadline, f"There are {len(ports)} processes of {service} and not {count}")
        for port in ports:
            ready = AnswersHttp(port, "/health/ready")
            while not ready():
                _pause(deadline, f"A process of {service} is not ready on port {port}")
    return {service: len(before[service]) for service in wanted}


def _own_ports(home: Home, facts: dict[str, Any] | None) -> dict[str, list[int]]:
    """Of each service's processes, in their order."""
    if facts is None:
        raise Unavailable(
            f"No system runs from {home.path}: start it with `choreo up`, or name its home with CHOREO_HOME "
            "or its CHOREO_PORT_BASE."
        )
    own_ports: dict[str, list[int]] = facts["own_ports"]
    return own_ports


def _pause(deadline: float, otherwise: str) -> None:
    if time.monotonic() > deadline:
        raise Unavailable(f"{otherwise}, even after {_WITHIN:.0f} s: see what `choreo up` says.")
    time.sleep(_LOOK_AGAIN)
