-- The same tables for every peer, named as those of the shop, so that one checker reads them all.
-- No constraint hides what a peer does twice: an order may be paid and notified more than once here.

CREATE TABLE accounts (user_id uuid PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE orders (id uuid PRIMARY KEY, user_id uuid NOT NULL, price bigint NOT NULL, status text NOT NULL);

CREATE TABLE payments (order_id uuid NOT NULL, user_id uuid NOT NULL, amount bigint NOT NULL, outcome text NOT NULL);
CREATE INDEX ON payments (order_id);

CREATE TABLE ledger (
    entry_id uuid, side text, user_id uuid NOT NULL, kind text NOT NULL, amount bigint NOT NULL, order_id uuid,
    PRIMARY KEY (entry_id, side)
);

CREATE TABLE notifications (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), order_id uuid NOT NULL, user_id uuid NOT NULL, kind text NOT NULL
);
CREATE INDEX ON notifications (order_id);

-- Only for those whose kind of solution has them.
CREATE TABLE inbox (message text PRIMARY KEY);
CREATE TABLE outbox (id bigserial PRIMARY KEY, topic text NOT NULL, key text NOT NULL, value jsonb NOT NULL);
