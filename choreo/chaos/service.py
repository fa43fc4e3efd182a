"""Runs a service as `python -m NAME_service` does, with failpoints: `python -m choreo.chaos.service NAME`."""

import runpy
import sys

from choreo.chaos.failpoints import install
from choreo.chassis.installed import package_of
from choreo.embedded.home import Home
from choreo.operations.reading.installation import read_settings

if __name__ == "__main__":
    name = sys.argv[1]
    install(name, Home(read_settings()).path)
    runpy.run_module(package_of(name), run_name="__main__")
