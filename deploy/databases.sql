-- A database and two roles per service: one owns the tables, the service itself may read and write them and
-- no more (choreo migrate --grant). Run by psql as superuser, once. SERVICES_PASSWORD is everybody's password.

\set ON_ERROR_STOP on
\getenv password SERVICES_PASSWORD

CREATE TEMPORARY TABLE services AS SELECT unnest(ARRAY['user', 'order', 'billing', 'notification']) AS name;

SELECT format('CREATE ROLE %I LOGIN CONNECTION LIMIT %s PASSWORD %L', role, most, :'password')
FROM services, LATERAL (VALUES (name, 120), (name || '_owner', 20)) AS roles (role, most) \gexec

REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;

SELECT format('CREATE DATABASE %I OWNER %I', name, name || '_owner') FROM services \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name) FROM services \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', name, name) FROM services \gexec
