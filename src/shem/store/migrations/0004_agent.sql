-- shem:set agent
-- The provider agent's own memory: what it approved, which ExeUnits it started, how far it has read.
CREATE TABLE agent_setting (
    identity TEXT NOT NULL,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (identity, name)
) STRICT;

CREATE TABLE agent_agreement (
    agreement_id TEXT NOT NULL PRIMARY KEY,
    identity     TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('approving', 'approved', 'breaking', 'ended')),
    reason       TEXT,
    body         TEXT NOT NULL,
    expires_ns   INTEGER NOT NULL,
    created_ns   INTEGER NOT NULL,
    changed_ns   INTEGER NOT NULL
) STRICT;
CREATE INDEX agent_agreement_open ON agent_agreement (identity, created_ns) WHERE state <> 'ended';

CREATE TABLE agent_activity (
    activity_id   TEXT NOT NULL PRIMARY KEY,
    agreement_id  TEXT NOT NULL,
    identity      TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('running', 'stopping', 'reporting', 'ended')),
    pid           INTEGER,
    pid_started   REAL,
    restarts      INTEGER NOT NULL,
    reason        TEXT,
    error_message TEXT,
    created_ns    INTEGER NOT NULL,
    changed_ns    INTEGER NOT NULL
) STRICT;
CREATE INDEX agent_activity_open ON agent_activity (identity, created_ns) WHERE state <> 'ended';
