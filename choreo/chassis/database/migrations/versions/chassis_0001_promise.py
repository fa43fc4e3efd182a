"""The tables of the delivery promise."""

from alembic import op

revision = "chassis_0001"
down_revision = None
branch_labels = ("chassis",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE keys (
            key text PRIMARY KEY,
            sequence bigint NOT NULL
        ) WITH (fillfactor = 70);
        COMMENT ON TABLE keys IS
            'one row per key; its lock serialises all that happens to the key in this service';

        CREATE TABLE positions (
            topic text NOT NULL,
            partition integer NOT NULL,
            next_offset bigint NOT NULL,
            topic_id text NOT NULL,
            cluster_id text NOT NULL,
            PRIMARY KEY (topic, partition)
        ) WITH (fillfactor = 10);
        COMMENT ON TABLE positions IS
            'the truth about consumption; Kafka''s committed offsets are advisory';

        CREATE TABLE journal (
            id uuid PRIMARY KEY,
            position bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
            key text NOT NULL,
            step bigint NOT NULL,
            kind text NOT NULL,
            type text NOT NULL,
            topic text,
            partition integer,
            "offset" bigint,
            correlation_id uuid,
            outcome text NOT NULL,
            command jsonb,
            refusal jsonb,
            fingerprint bytea,
            answer_status smallint,
            answer_body bytea,
            answer_headers jsonb,
            decided_at timestamptz NOT NULL,
            code_version text NOT NULL
        );
        CREATE INDEX journal_key ON journal (key, position);
        CREATE INDEX journal_correlation ON journal (correlation_id);
        COMMENT ON TABLE journal IS
            'what this service was asked and heard; per key in the order of position';

        CREATE TABLE outbox (
            position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            event_id uuid NOT NULL,
            key text NOT NULL,
            partition integer NOT NULL,
            value bytea NOT NULL,
            headers bytea NOT NULL,
            decided_at timestamptz NOT NULL
        );
        COMMENT ON TABLE outbox IS 'facts that are decided and not yet acknowledged by Kafka';

        CREATE TABLE parked (
            position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id uuid NOT NULL UNIQUE,
            key text NOT NULL,
            type text,
            topic text NOT NULL,
            partition integer NOT NULL,
            "offset" bigint NOT NULL,
            record_key bytea,
            record_value bytea,
            record_headers bytea NOT NULL,
            reason text NOT NULL,
            error text NOT NULL,
            place text,
            parked_at timestamptz NOT NULL
        );
        CREATE INDEX parked_key ON parked (key, position);
        COMMENT ON TABLE parked IS
            'events that need a person, and the later events of their keys; in the order of position';

        CREATE TABLE signing_keys (
            kid text PRIMARY KEY,
            public_jwk jsonb NOT NULL,
            not_after timestamptz NOT NULL
        );
    """)
