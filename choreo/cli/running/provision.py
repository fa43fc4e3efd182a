"""`choreo provision`: topics and ACLs on a cluster that is not ours."""

from typing import Annotated

import typer

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.errors import Unavailable
from choreo.operations.acting.provisioning import grants_by_principal, provide_grants
from choreo.operations.principals import topic_names
from choreo.operations.reading.installation import read_settings


def provision(
    replication_factor: Annotated[
        int, typer.Option(help="Copies of each new topic; -1 leaves it to the cluster.")
    ] = -1,
) -> None:
    """Make or check topics and ACLs on the cluster in KAFKA_BOOTSTRAP_SERVERS, as KAFKA_USERNAME.

    Makes no users and takes no grant away. The ACLs are for the names in USER_KAFKA_USERNAME and so on.
    """
    settings = read_settings()
    if settings.kafka_bootstrap_servers is None:
        raise Unavailable("KAFKA_BOOTSTRAP_SERVERS is not set: name the cluster that is to have the topics.")
    access, names, wanted = settings.kafka_access(), topic_names(settings), grants_by_principal(settings)
    made_topics = declare_topics(access, names, settings.partitions, replication_factor)
    for name in names:
        print(f"{name}: {_done(name in made_topics)}")
    made_grants = provide_grants(access, wanted)
    if made_grants is None:
        print("The cluster has no authorizer: everybody may do everything, and no ACLs are needed.")
        return
    for principal, grants in wanted.items():
        for grant in sorted(grants):
            print(f"{principal} {grant}: {_done(grant in made_grants[principal])}")


def _done(made: bool) -> str:
    return "made" if made else "as it must be"
