#!/bin/sh
# Writes .env, which `docker compose -f docker-compose.kafka.yml` reads: a password for each role in Postgres and
# for each name in Kafka. Once; what is there stays.
set -euC
umask 077

services=""
# each service: words, as `make docs` writes it
services="$services user"
services="$services order"
services="$services billing"
services="$services notification"
# each service ends

names="POSTGRES KAFKA OBSERVER_KAFKA"
for service in $(echo "$services" | tr a-z A-Z); do
    names="$names ${service}_KAFKA ${service}_DATABASE ${service}_OWNER"
done
{
    for name in $names; do
        echo "${name}_PASSWORD=$(od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n')"
    done
    # For a program on this machine: `set -a; . ./.env`.
    echo "KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT"
    echo "KAFKA_SASL_MECHANISM=PLAIN"
    echo "KAFKA_USERNAME=admin"
    for name in $services observer; do
        echo "$(echo "$name" | tr a-z A-Z)_KAFKA_USERNAME=$name"
    done
} > .env
