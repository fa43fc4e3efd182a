"""Who a process is, over its restarts. One process of a service at a time has a name, so whatever was left
under it belongs to nobody else: the next one takes it up at once, and waits for no lease and no session.
"""

from uuid import UUID, uuid4

from choreo.message.envelope import derived_id


def owner_of(instance: str | None) -> UUID:
    """By which this process is known where it leases something. Without a name it is another each time."""
    return derived_id("owner", instance) if instance else uuid4()
