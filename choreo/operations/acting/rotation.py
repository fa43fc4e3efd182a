"""A new signing key, made in the operator's process."""

import asyncio

from prometheus_client import CollectorRegistry

from choreo.chassis import clock
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe.meter import Meter
from choreo.chassis.registry import services
from choreo.chassis.service import Rotation, S, Service, SignerOf
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.store import PostgresStore
from choreo.errors import Unavailable
from choreo.operations.reading.installation import Installation


async def rotated(installation: Installation) -> Rotation:
    """The new key comes into being as any fact of the service that signs, in one transaction of its kernel.

    The running service finds it in its tables; its relay publishes it. Nothing has to be told.
    """
    for service in services(installation.settings).values():
        if service.signer:
            return await _rotated(installation, service, service.signer)
    raise Unavailable("No service here signs tokens, so there is no key to rotate.")


async def _rotated(installation: Installation, service: Service[S], signer: "SignerOf[S]") -> Rotation:
    async with installation.engines() as engines:
        engine = engines[service.name]
        kernel = Kernel(
            service.decider,
            PostgresStore(engine, service.store),
            partition_of=lambda key: partition_of(key, installation.settings.partitions),
            clock=clock.now,
            meter=Meter(CollectorRegistry()),
        )
        running = asyncio.create_task(kernel.run())
        try:
            return await signer(kernel, engine, clock.now).rotate()
        finally:
            running.cancel()
            await asyncio.wait([running])
