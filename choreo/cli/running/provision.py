"""`choreo provision`: topics and ACLs on a cluster that is not ours."""

from collections.abc import Mapping
from typing import Annotated

import typer

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.acls import Unknowable, declare_grants, read_acls
from choreo.chassis.kafka.admin import RequestFailed, administering
from choreo.chassis.kafka.grants import Grant
from choreo.chassis.kafka.topics import declare_topics
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable
from choreo.operations.principals import grants_of_all, topic_names
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
    access = settings.kafka_access()
    names = topic_names(settings)
    made = declare_topics(access, names, settings.partitions, replication_factor)
    for name in names:
        print(f"{name}: {'made' if name in made else 'as it must be'}")
    _provide_grants(access, _by_principal(settings))


def _by_principal(settings: Settings) -> Mapping[str, set[Grant]]:
    """Several services may come by one name."""
    wanted: dict[str, set[Grant]] = {}
    for who, grants in grants_of_all(settings).items():
        wanted.setdefault(settings.kafka_access(who).principal, set()).update(grants)
    return wanted


def _provide_grants(access: KafkaAccess, wanted: Mapping[str, set[Grant]]) -> None:
    try:
        with administering(access) as admin:
            acls = read_acls(admin)
            if acls is None:
                print("The cluster has no authorizer: everybody may do everything, and no ACLs are needed.")
                return
            missing = acls.missing(wanted)
            declare_grants(admin, missing)
    except Unknowable as why:
        raise Unavailable(f"ACLs cannot be checked: {why}. {_needed(wanted)}") from None
    except RequestFailed as error:
        raise Unavailable(f"ACLs could not be made: {error}. {_needed(missing)}") from None
    for principal, grants in wanted.items():
        for grant in sorted(grants):
            print(f"{principal} {grant}: {'made' if grant in missing[principal] else 'as it must be'}")


def _needed(wanted: Mapping[str, set[Grant]]) -> str:
    told = "; ".join(
        f"{principal} {', '.join(map(str, sorted(grants)))}" for principal, grants in wanted.items() if grants
    )
    return f"Have these made: {told}."
