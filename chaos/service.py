"""Runs a service as `python -m NAME_service` does, with failpoints: `python -m chaos.service NAME`."""

import runpy
import sys

from chaos.failpoints import install
from choreo.installation import read_settings
from embedded.home import Home

if __name__ == "__main__":
    name = sys.argv[1]
    install(name, Home(read_settings()).path)
    runpy.run_module(f"{name}_service", run_name="__main__")
