"""What Kafka's ACLs let each service do, beside what they must."""

from collections.abc import Collection, Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from choreo.chassis.kafka.acls import all_acls
from choreo.chassis.kafka.grants import Grant

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


def read_acls(admin: AdminClient) -> Collection[AclBinding] | None:
    """None where the cluster has no authorizer, so that everybody may do everything. Raises `Unknowable`
    where this client may not see them, and KafkaException.
    """
    try:
        return list(all_acls(admin))
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.SECURITY_DISABLED:
            return None
        if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            raise Unknowable("this client may not see them: DESCRIBE on the cluster is missing") from None
        raise


def allowed(
    acls: Collection[AclBinding], principal: str, resources: Iterable[tuple[str, str]]
) -> frozenset[Grant]:
    """All that this principal may do with these (kind, name). DESCRIBE is told only where it stands alone."""
    mine = [acl for acl in acls if acl.principal in (principal, "User:*")]
    found = set()
    for kind, name in resources:
        concerned = [acl for acl in mine if acl.restype == _RESOURCES[kind] and _covers(acl, name)]
        may = _operations(concerned, AclPermissionType.ALLOW) - _operations(concerned, AclPermissionType.DENY)
        may -= {"DESCRIBE"} if may & _DESCRIBED_BY else set()
        found |= {Grant(operation, kind, name) for operation in may}  # type: ignore[arg-type]
    return frozenset(found)


def _operations(acls: Iterable[AclBinding], permission: AclPermissionType) -> set[str]:
    names = {acl.operation.name for acl in acls if acl.permission_type == permission}
    return set(_OPERATIONS) if "ALL" in names else names


def _covers(acl: AclBinding, name: str) -> bool:
    if acl.resource_pattern_type == ResourcePatternType.PREFIXED:
        return name.startswith(acl.name)
    return acl.name in ("*", name)
