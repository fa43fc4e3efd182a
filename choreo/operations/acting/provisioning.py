"""What the services must be let do on a cluster that is not ours."""

from collections.abc import Mapping

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.acls import Unknowable, declare_grants, read_acls
from choreo.chassis.kafka.admin.client import RequestFailed, administering
from choreo.chassis.kafka.grants import Grant
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable
from choreo.operations.principals import grants_of_all


def grants_by_principal(settings: Settings) -> Mapping[str, set[Grant]]:
    """Several services may come by one name."""
    wanted: dict[str, set[Grant]] = {}
    for who, grants in grants_of_all(settings).items():
        wanted.setdefault(settings.kafka_access(who).principal, set()).update(grants)
    return wanted


def provide_grants(access: KafkaAccess, wanted: Mapping[str, set[Grant]]) -> Mapping[str, set[Grant]] | None:
    """Makes those that are missing and returns them; None where the cluster has no authorizer.

    Raises `Unavailable`, which says what somebody else has to make.
    """
    try:
        with administering(access) as admin:
            acls = read_acls(admin)
            if acls is None:
                return None
            missing = acls.missing(wanted)
            declare_grants(admin, missing)
    except Unknowable as why:
        raise Unavailable(f"ACLs cannot be checked: {why}. {_needed(wanted)}") from None
    except RequestFailed as error:
        raise Unavailable(f"ACLs could not be made: {error}. {_needed(missing)}") from None
    return missing


def _needed(wanted: Mapping[str, set[Grant]]) -> str:
    told = "; ".join(
        f"{principal} {', '.join(map(str, sorted(grants)))}" for principal, grants in wanted.items() if grants
    )
    return f"Have these made: {told}."
