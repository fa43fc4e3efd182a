"""`choreo provision`: topics on a cluster that is not ours."""

from typing import Annotated

import typer

from choreo.errors import read_settings
from choreo.up import topic_names
from embedded.process import Unavailable
from embedded.topics import declare_topics


def provision(
    replication_factor: Annotated[
        int, typer.Option(help="Copies of each new topic; -1 leaves it to the cluster.")
    ] = -1,
) -> None:
    """Make or check the topics on the cluster in KAFKA_BOOTSTRAP_SERVERS."""
    settings = read_settings()
    if settings.kafka_bootstrap_servers is None:
        raise Unavailable("KAFKA_BOOTSTRAP_SERVERS is not set: name the cluster that is to have the topics.")
    names = topic_names(settings)
    made = declare_topics(settings.kafka_bootstrap_servers, names, settings.partitions, replication_factor)
    for name in names:
        print(f"{name}: {'made' if name in made else 'as it must be'}")
