"""Hypothesis judges results here, never speed: the machine may be busy."""

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
