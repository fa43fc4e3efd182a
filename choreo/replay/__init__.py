"""What happened, made to happen again in memory. It reads what any service wrote, so it knows all facts."""

from choreo.chassis.registry import load_facts
from choreo.replay.engine.sandbox import refusing_services

with refusing_services():
    load_facts()
