"""The services as replay knows them: their decisions and their rows, and nothing that could act."""

from typing import Any

from billing_service.service import service as billing
from chassis.service import Service
from chassis.settings import Settings
from notification_service.service import service as notification
from order_service.service import service as order
from user_service.service import service as user


def services(settings: Settings) -> dict[str, Service[Any]]:
    """By name, as today's code has them."""
    described: list[Service[Any]] = [
        user(settings),
        order(settings),
        billing(settings),
        notification(settings),
    ]
    return {service.name: service for service in described}
