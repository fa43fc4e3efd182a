"""Which services the tests run with: those that are installed."""

from choreo.chassis.registry import load_facts, service_names
from choreo.message.catalog import published_by, topic_of

load_facts()
SERVICES = service_names()
FACTS = [fact for service in SERVICES for fact in published_by(service)]
"""Theirs, without those of the template that `choreo new` writes from."""
TOPICS = {service: topic_of(service) for service in SERVICES}
