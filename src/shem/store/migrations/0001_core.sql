-- shem:set node
-- Identities and their application keys; messages to and from peers.
CREATE TABLE identity (
    node_id    TEXT PRIMARY KEY,
    keystore   TEXT NOT NULL,
    alias      TEXT UNIQUE,
    is_default INTEGER NOT NULL,
    is_deleted INTEGER NOT NULL,
    created_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX identity_one_default ON identity (is_default) WHERE is_default = 1;

CREATE TABLE app_key (
    name          TEXT PRIMARY KEY,
    key           TEXT NOT NULL,
    key_digest    TEXT NOT NULL UNIQUE,
    role          TEXT NOT NULL,
    identity      TEXT NOT NULL REFERENCES identity (node_id),
    allow_origins TEXT NOT NULL,
    created_ns    INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    id         SERIAL_KEY,
    identity   TEXT NOT NULL,
    peer       TEXT NOT NULL,
    lane       TEXT NOT NULL,
    kind       TEXT NOT NULL,
    key        TEXT NOT NULL,
    payload    TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('ready', 'done', 'dead')),
    attempts   INTEGER NOT NULL,
    last_error TEXT,
    created_ns INTEGER NOT NULL,
    settled_ns INTEGER,
    UNIQUE (identity, peer, kind, key)
) STRICT;
CREATE INDEX outbox_ready ON outbox (identity, peer, lane, id) WHERE state = 'ready';
CREATE INDEX outbox_settled ON outbox (settled_ns) WHERE state <> 'ready';

CREATE TABLE inbox (
    identity    TEXT NOT NULL,
    peer        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    key         TEXT NOT NULL,
    digest      TEXT NOT NULL,
    reply       BLOB NOT NULL,
    received_ns INTEGER NOT NULL,
    PRIMARY KEY (identity, peer, kind, key)
) STRICT;
CREATE INDEX inbox_received ON inbox (received_ns);
