-- A database and two roles per service: one owns the tables, the service itself may read and write them and
-- no more (choreo migrate --grant). Run by psql as superuser, once, with a password for each in the environment.

\set ON_ERROR_STOP on
\getenv user USER_DATABASE_PASSWORD
\getenv user_owner USER_OWNER_PASSWORD
\getenv order ORDER_DATABASE_PASSWORD
\getenv order_owner ORDER_OWNER_PASSWORD
\getenv billing BILLING_DATABASE_PASSWORD
\getenv billing_owner BILLING_OWNER_PASSWORD
\getenv notification NOTIFICATION_DATABASE_PASSWORD
\getenv notification_owner NOTIFICATION_OWNER_PASSWORD

CREATE TEMPORARY TABLE services AS SELECT unnest(ARRAY['user', 'order', 'billing', 'notification']) AS name;
CREATE TEMPORARY TABLE roles (name, most, password) AS VALUES
    ('user', 120, :'user'), ('user_owner', 20, :'user_owner'),
    ('order', 120, :'order'), ('order_owner', 20, :'order_owner'),
    ('billing', 120, :'billing'), ('billing_owner', 20, :'billing_owner'),
    ('notification', 120, :'notification'), ('notification_owner', 20, :'notification_owner');

SELECT format('CREATE ROLE %I LOGIN CONNECTION LIMIT %s PASSWORD %L', name, most, password) FROM roles \gexec

REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;

SELECT format('CREATE DATABASE %I OWNER %I', name, name || '_owner') FROM services \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name) FROM services \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', name, name) FROM services \gexec
