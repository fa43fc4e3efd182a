-- A database and two roles per service: one owns the tables, the service itself may read and write them and
-- no more (choreo migrate --grant). Run by psql as superuser, once, with a password for each in the environment.

\set ON_ERROR_STOP on
CREATE TEMPORARY TABLE services (name text);
CREATE TEMPORARY TABLE roles (name text, most int, password text);
-- each service: roles, as `make docs` writes it
\getenv user USER_DATABASE_PASSWORD
\getenv user_owner USER_OWNER_PASSWORD
INSERT INTO services VALUES ('user');
INSERT INTO roles VALUES ('user', 120, :'user'), ('user_owner', 20, :'user_owner');
\getenv order ORDER_DATABASE_PASSWORD
\getenv order_owner ORDER_OWNER_PASSWORD
INSERT INTO services VALUES ('order');
INSERT INTO roles VALUES ('order', 120, :'order'), ('order_owner', 20, :'order_owner');
\getenv billing BILLING_DATABASE_PASSWORD
\getenv billing_owner BILLING_OWNER_PASSWORD
INSERT INTO services VALUES ('billing');
INSERT INTO roles VALUES ('billing', 120, :'billing'), ('billing_owner', 20, :'billing_owner');
\getenv notification NOTIFICATION_DATABASE_PASSWORD
\getenv notification_owner NOTIFICATION_OWNER_PASSWORD
INSERT INTO services VALUES ('notification');
INSERT INTO roles VALUES ('notification', 120, :'notification'), ('notification_owner', 20, :'notification_owner');
-- each service ends

SELECT format('CREATE ROLE %I LOGIN CONNECTION LIMIT %s PASSWORD %L', name, most, password) FROM roles \gexec

REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;

SELECT format('CREATE DATABASE %I OWNER %I', name, name || '_owner') FROM services \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name) FROM services \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', name, name) FROM services \gexec
