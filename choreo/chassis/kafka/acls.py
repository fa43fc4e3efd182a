"""Who may use a cluster, and for what: users with their passwords, and ACLs."""

from collections.abc import Collection, Iterable, Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin import administering
from choreo.chassis.kafka.grants import Grant
from choreo.errors import Unavailable

_TIMEOUT = 15.0
_ITERATIONS = 4096
_ANY = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)


def admit(admin: KafkaAccess, wanted: Mapping[KafkaAccess, Collection[Grant]]) -> None:
    """Users with their passwords, and what each may do. Safe to repeat."""
    try:
        with administering(admin) as client:
            _declare_users(client, {user.username: user.password for user in wanted})
            declare_grants(client, {user.principal: grants for user, grants in wanted.items()})
    except KafkaException as error:
        raise Unavailable(f"Kafka's users could not be made: {error.args[0].str()}.") from error


def _declare_users(admin: AdminClient, passwords: Mapping[str, str]) -> None:
    """With these passwords and no others, by SCRAM-SHA-512."""
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    users = [UserScramCredentialUpsertion(name, how, word.encode()) for name, word in passwords.items()]
    for done in admin.alter_user_scram_credentials(users, request_timeout=_TIMEOUT).values():
        done.result()


def declare_grants(admin: AdminClient, wanted: Mapping[str, Collection[Grant]]) -> None:
    """By principal. Safe to repeat; takes nothing away; raises KafkaException."""
    bindings = [_binding(principal, grant) for principal, grants in wanted.items() for grant in grants]
    for done in (admin.create_acls(bindings, request_timeout=_TIMEOUT) if bindings else {}).values():
        done.result()


def missing_grants(
    there: Collection[AclBinding], wanted: Mapping[str, Collection[Grant]]
) -> dict[str, set[Grant]]:
    """Those of which no ACL says just this."""
    return {
        principal: {grant for grant in grants if _binding(principal, grant) not in there}
        for principal, grants in wanted.items()
    }


def all_acls(admin: AdminClient) -> Iterable[AclBinding]:
    """Of the whole cluster. Raises KafkaException."""
    found: Iterable[AclBinding] = admin.describe_acls(_ANY, request_timeout=_TIMEOUT).result()
    return found


def _binding(principal: str, grant: Grant) -> AclBinding:
    kind = ResourceType.BROKER if grant.resource == "cluster" else ResourceType[grant.resource.upper()]
    return AclBinding(
        kind,
        grant.name,
        ResourcePatternType.LITERAL,
        principal,
        "*",
        AclOperation[grant.operation],
        AclPermissionType.ALLOW,
    )
