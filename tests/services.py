"""Which services the tests run with: those that are installed."""

from choreo.chassis.registry import service_names
from choreo.message.catalog import topic_of

SERVICES = service_names()
TOPICS = {service: topic_of(service) for service in SERVICES}
