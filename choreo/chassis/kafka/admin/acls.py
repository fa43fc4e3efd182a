"""Who may use a cluster, and for what: users with their passwords, and ACLs."""

from collections.abc import Collection, Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.client import Admin, RequestFailed, administering
from choreo.chassis.kafka.grants import Grant
from choreo.errors import Unavailable

_TIMEOUT = 15.0
_ITERATIONS = 4096
_ANY = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)
_RESOURCES: dict[str, ResourceType] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "cluster": ResourceType.BROKER,
}
_OPERATIONS = frozenset(operation.name for operation in AclOperation) - {"UNKNOWN", "ANY", "ALL"}
_DESCRIBED_BY = {"READ", "WRITE", "DELETE", "ALTER"}
"""Operations that include DESCRIBE."""


class Unknowable(Exception):
    """The ACLs cannot be told. The message says why."""


def admit(admin: KafkaAccess, users: Mapping[KafkaAccess, Collection[Grant]]) -> None:
    """Makes users with their passwords and grants, as the admin. Safe to repeat."""
    try:
        with administering(admin) as client:
            _declare_users(client, {user.username: user.password for user in users})
            declare_grants(client, {user.principal: grants for user, grants in users.items()})
    except RequestFailed as error:
        raise Unavailable(f"Kafka's users could not be made: {error}.") from error


def _declare_users(admin: Admin, passwords: Mapping[str, str]) -> None:
    """Gives them these passwords and no others, by SCRAM-SHA-512."""
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    users = [UserScramCredentialUpsertion(name, how, word.encode()) for name, word in passwords.items()]
    for done in admin.alter_user_scram_credentials(users, request_timeout=_TIMEOUT).values():
        done.result()


def declare_grants(admin: Admin, wanted: Mapping[str, Collection[Grant]]) -> None:
    """Grants what is wanted, by principal. Safe to repeat; takes nothing away."""
    bindings = [_binding(principal, grant) for principal, grants in wanted.items() for grant in grants]
    for done in (admin.create_acls(bindings, request_timeout=_TIMEOUT) if bindings else {}).values():
        done.result()


class Acls:
    """All ACLs of a cluster."""

    def __init__(self, bindings: Collection[AclBinding]) -> None:
        self._bindings = bindings

    def missing(self, wanted: Mapping[str, Collection[Grant]]) -> dict[str, set[Grant]]:
        """Returns, by principal, the grants of which no ACL says just this."""
        return {
            principal: {grant for grant in grants if _binding(principal, grant) not in self._bindings}
            for principal, grants in wanted.items()
        }

    def allowed(self, principal: str, resources: Iterable[tuple[str, str]]) -> frozenset[Grant]:
        """Returns all that this principal may do with these resources (kind, name).

        DESCRIBE is told only where it stands alone.
        """
        mine = [acl for acl in self._bindings if acl.principal in (principal, "User:*")]
        found = set()
        for kind, name in resources:
            concerned = [acl for acl in mine if acl.restype == _RESOURCES[kind] and _covers(acl, name)]
            may = _operations(concerned, AclPermissionType.ALLOW)
            may -= _operations(concerned, AclPermissionType.DENY)
            may -= {"DESCRIBE"} if may & _DESCRIBED_BY else set()
            found |= {Grant(operation, kind, name) for operation in may}  # type: ignore[arg-type]
        return frozenset(found)


def read_acls(admin: Admin) -> Acls | None:
    """Returns None where the cluster has no authorizer, so that everybody may do everything.

    Raises `Unknowable` where this client may not see them.
    """
    try:
        return Acls(list(admin.describe_acls(_ANY, request_timeout=_TIMEOUT).result()))
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.SECURITY_DISABLED:
            return None
        if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            raise Unknowable("this client may not see them: DESCRIBE on the cluster is missing") from None
        raise


def _binding(principal: str, grant: Grant) -> AclBinding:
    return AclBinding(
        _RESOURCES[grant.resource],
        grant.name,
        ResourcePatternType.LITERAL,
        principal,
        "*",
        AclOperation[grant.operation],
        AclPermissionType.ALLOW,
    )


def _operations(acls: Iterable[AclBinding], permission: AclPermissionType) -> set[str]:
    names = {acl.operation.name for acl in acls if acl.permission_type == permission}
    return set(_OPERATIONS) if "ALL" in names else names


def _covers(acl: AclBinding, name: str) -> bool:
    if acl.resource_pattern_type == ResourcePatternType.PREFIXED:
        return name.startswith(acl.name)
    return acl.name in ("*", name)
