"""Changes that nobody can notice, each with the reason.

At most five: more are a sign of code that does nothing.
"""

EQUIVALENT: dict[str, str] = {}
"""By the change's id."""
