"""An example of the shop in Kubernetes, from the services' descriptions, with Kafka by Strimzi."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from choreo.chassis.installed import package_of
from choreo.chassis.kafka.admin.topics import FOREVER
from choreo.chassis.kafka.grants import Grant, observing
from choreo.chassis.registry import port_of
from choreo.chassis.service import Service
from choreo.chassis.settings import OBSERVER, Settings
from choreo.message.catalog import topic_of

FOLDER = Path("deploy", "kubernetes")

_HEAD = """\
# Written by `make docs` from the services' descriptions, and never run: there was no cluster. Its kinds were
# held against the published schemas of Strimzi 1.3 and Kubernetes 1.37. See docs/kubernetes.md.
"""
_KAFKA = """\
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaNodePool
metadata:
  name: brokers
  labels: {strimzi.io/cluster: shop}
spec:
  replicas: 3
  roles: [controller, broker]
  storage:
    type: persistent-claim
    size: 100Gi
    deleteClaim: false
---
apiVersion: kafka.strimzi.io/v1
kind: Kafka
metadata:
  name: shop
spec:
  kafka:
    listeners:
      - name: tls
        port: 9093
        type: internal
        tls: true
        authentication: {type: scram-sha-512}
    authorization: {type: simple}
    config:
      auto.create.topics.enable: false
      default.replication.factor: 3
      min.insync.replicas: 2
      offsets.topic.replication.factor: 3
      log.message.timestamp.type: LogAppendTime
      unclean.leader.election.enable: false
  entityOperator:
    topicOperator: {}
    userOperator: {}
"""
_TOPIC = """\
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata:
  name: %(topic)s
  labels: {strimzi.io/cluster: shop}
spec:
  partitions: %(partitions)d  # fixed: a key must not move
  replicas: 3
  config:
%(config)s    min.insync.replicas: "2"
"""
_USER = """\
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaUser
metadata:
  name: %(name)s
  labels: {strimzi.io/cluster: shop}
spec:
  authentication: {type: scram-sha-512}
  authorization:
    type: simple
    acls:
%(acls)s"""
_POD = """\
      automountServiceAccountToken: false
      enableServiceLinks: false  # they would be read as settings: KAFKA_…, ORDER_…
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: %(name)s
          image: choreo:%(version)s
          command: %(command)s
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
"""
_MIGRATION = """\
---
apiVersion: batch/v1
kind: Job
metadata:
  name: migrate
spec:
  backoffLimit: 5
  ttlSecondsAfterFinished: 600
  template:
    spec:
      restartPolicy: OnFailure
%(pod)s          env:
%(urls)s"""
_URL = """\
            - name: %(NAME)s_DATABASE_URL
              valueFrom: {secretKeyRef: {name: %(secret)s, key: %(name)s}}
"""
_SERVICE = """\
---
apiVersion: v1
kind: Service
metadata:
  name: %(name)s
spec:
  selector: {app: %(name)s}
  ports:
    - {name: http, port: %(port)d}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %(name)s
spec:
  replicas: 2
  selector: {matchLabels: {app: %(name)s}}
  strategy: {rollingUpdate: {maxUnavailable: 0}}
  template:
    metadata:
      labels: {app: %(name)s}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "%(port)d"}
    spec:
%(pod)s          ports:
            - {name: http, containerPort: %(port)d}
          readinessProbe:  # kernel and database: a broker that is away takes nobody out
            httpGet: {path: /health/serving, port: http}
            periodSeconds: 2
            timeoutSeconds: 3
          livenessProbe:
            httpGet: {path: /health/live, port: http}
            initialDelaySeconds: 15
            periodSeconds: 10
            timeoutSeconds: 5
          resources:
            requests: {cpu: 100m, memory: 192Mi}
            limits: {memory: 512Mi}
          env:
            - {name: CHOREO_HTTP_HOST, value: 0.0.0.0}
            - {name: CHOREO_HOSTS, value: "%(name)s,localhost"}
            - {name: KAFKA_BOOTSTRAP_SERVERS, value: "shop-kafka-bootstrap:9093"}
            - {name: KAFKA_SECURITY_PROTOCOL, value: SASL_SSL}
            - {name: KAFKA_SASL_MECHANISM, value: SCRAM-SHA-512}
            - {name: KAFKA_CA_FILE, value: /kafka-ca/ca.crt}
            - {name: %(NAME)s_KAFKA_USERNAME, value: %(name)s}
            - name: %(NAME)s_KAFKA_PASSWORD
              valueFrom: {secretKeyRef: {name: %(name)s, key: password}}  # made by Strimzi
%(urls)s%(mail)s          volumeMounts:
            - {name: kafka-ca, mountPath: /kafka-ca, readOnly: true}
            - {name: tmp, mountPath: /tmp}
      volumes:
        - name: kafka-ca
          secret: {secretName: shop-cluster-ca-cert, items: [{key: ca.crt, path: ca.crt}]}
        - {name: tmp, emptyDir: {sizeLimit: 64Mi}}
"""
_MAIL = """\
            - name: SMTP_URL
              valueFrom: {secretKeyRef: {name: mail, key: url}}
"""


def manifests(services: Sequence[Service[Any]], version: str) -> dict[Path, str]:
    settings = Settings.model_construct()
    topics = [topic_of(service.name) for service in services]
    config = "".join(f'    {name}: "{value}"\n' for name, value in FOREVER.items())
    kafka = [_HEAD, _KAFKA]
    kafka += [
        _TOPIC % {"topic": topic, "partitions": settings.partitions, "config": config} for topic in topics
    ]
    kafka += [_user(service.name, service.grants("")) for service in services]
    kafka.append(_user(OBSERVER, observing(topics)))
    shop = [
        _HEAD,
        _migration(services, version),
        *(_service(service, settings, version) for service in services),
    ]
    return {FOLDER / "kafka.yml": "".join(kafka), FOLDER / "shop.yml": "".join(shop)}


def _user(name: str, grants: Iterable[Grant]) -> str:
    acls = "".join(
        f"      - resource: {_resource(kind, thing)}\n        operations: [{', '.join(operations)}]\n"
        for (kind, thing), operations in _by_resource(grants).items()
    )
    return _USER % {"name": name, "acls": acls}


def _by_resource(grants: Iterable[Grant]) -> dict[tuple[str, str], list[str]]:
    """`DESCRIBE_CONFIGS` is `DescribeConfigs` there."""
    found: dict[tuple[str, str], list[str]] = {}
    for grant in sorted(grants, key=lambda grant: (grant.resource, grant.name, grant.operation)):
        word = grant.operation.replace("_", " ").title().replace(" ", "")
        found.setdefault((grant.resource, grant.name), []).append(word)
    return found


def _resource(kind: str, thing: str) -> str:
    return (
        "{type: cluster}" if kind == "cluster" else f'{{type: {kind}, name: "{thing}", patternType: literal}}'
    )


def _migration(services: Iterable[Service[Any]], version: str) -> str:
    told = {"name": "migrate", "version": version, "command": "[choreo, migrate, --grant]"}
    urls = "".join(_url(service.name, "database-owners") for service in services)
    return _MIGRATION % {"pod": _POD % told, "urls": urls}


def _service(service: Service[Any], settings: Settings, version: str) -> str:
    name = service.name
    told = {"name": name, "version": version, "command": f"[python, -m, {package_of(name)}]"}
    return _SERVICE % {
        "name": name,
        "NAME": name.upper(),
        "port": port_of(name, settings),
        "pod": _POD % told,
        "urls": _url(name, "databases"),
        "mail": _MAIL if service.sends_mail else "",
    }


def _url(name: str, secret: str) -> str:
    return _URL % {"NAME": name.upper(), "name": name, "secret": secret}
