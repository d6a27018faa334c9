-- shem:set node
-- Activities of both roles; a requestor's intents, batches and results; a provider's events.
CREATE TABLE activity (
    activity_id    TEXT NOT NULL,
    role           TEXT NOT NULL CHECK (role IN ('Requestor', 'Provider')),
    identity       TEXT NOT NULL,
    agreement_id   TEXT NOT NULL,
    requestor      TEXT NOT NULL,
    provider       TEXT NOT NULL,
    app_session_id TEXT,
    intent_id      TEXT,
    state          TEXT NOT NULL,
    pending        TEXT,
    before         TEXT,
    reason         TEXT,
    error_message  TEXT,
    state_ns       INTEGER NOT NULL,
    usage_vector   TEXT,
    usage_ns       INTEGER NOT NULL,
    destroy_ns     INTEGER,
    created_ns     INTEGER NOT NULL,
    PRIMARY KEY (activity_id, role)
) STRICT;
CREATE UNIQUE INDEX activity_of_intent ON activity (role, requestor, agreement_id, intent_id);
CREATE INDEX activity_of_agreement ON activity (agreement_id, created_ns);
CREATE INDEX activity_alive ON activity (role, created_ns) WHERE state <> 'Terminated';

CREATE TABLE activity_intent (
    intent_id    TEXT NOT NULL,
    identity     TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    provider     TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('open', 'done', 'failed')),
    activity_id  TEXT,
    message      TEXT,
    created_ns   INTEGER NOT NULL,
    PRIMARY KEY (identity, agreement_id, intent_id)
) STRICT;

CREATE TABLE activity_batch (
    activity_id  TEXT NOT NULL,
    batch_id     TEXT NOT NULL,
    identity     TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    state        TEXT NOT NULL
        CHECK (state IN ('intent', 'accepted', 'unknown', 'refused', 'never')),
    script       TEXT NOT NULL,
    digest       TEXT NOT NULL,
    commands     INTEGER NOT NULL,
    stored       INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    finished     INTEGER NOT NULL,
    message      TEXT,
    created_ns   INTEGER NOT NULL,
    PRIMARY KEY (activity_id, batch_id)
) STRICT;
CREATE INDEX activity_batch_open ON activity_batch (created_ns) WHERE finished = 0;

CREATE TABLE activity_result (
    activity_id TEXT NOT NULL,
    batch_id    TEXT NOT NULL,
    position    INTEGER NOT NULL,
    identity    TEXT NOT NULL,
    result      TEXT NOT NULL,
    PRIMARY KEY (activity_id, batch_id, position)
) STRICT;

CREATE TABLE activity_event (
    seq               SERIAL_KEY,
    identity          TEXT NOT NULL,
    activity_id       TEXT NOT NULL,
    agreement_id      TEXT NOT NULL,
    kind              TEXT NOT NULL CHECK (kind IN ('CreateActivity', 'DestroyActivity')),
    app_session_id    TEXT,
    requestor_pub_key TEXT,
    event_ns          INTEGER NOT NULL,
    UNIQUE (identity, event_ns)
) STRICT;
