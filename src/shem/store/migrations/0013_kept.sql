-- shem:set node
-- What a provider's node keeps of activities whose ExeUnit has ended (docs/adr/0010). `promised`:
-- the agent will hand the results over; `kept`: they are all here; `dropping`: being removed.
CREATE TABLE kept_activity (
    activity_id  TEXT NOT NULL PRIMARY KEY,
    identity     TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('promised', 'kept', 'dropping')),
    size         INTEGER NOT NULL,
    since_ns     INTEGER NOT NULL
) STRICT;
CREATE INDEX kept_activity_oldest ON kept_activity (since_ns, activity_id);

CREATE TABLE kept_batch (
    activity_id TEXT NOT NULL,
    batch_id    TEXT NOT NULL,
    identity    TEXT NOT NULL,
    position    INTEGER NOT NULL,
    accepted_ns INTEGER NOT NULL,
    script      TEXT NOT NULL,
    commands    INTEGER NOT NULL,
    stored      INTEGER NOT NULL,
    PRIMARY KEY (activity_id, batch_id)
) STRICT;

CREATE TABLE kept_result (
    activity_id TEXT NOT NULL,
    batch_id    TEXT NOT NULL,
    position    INTEGER NOT NULL,
    identity    TEXT NOT NULL,
    result      TEXT NOT NULL,
    PRIMARY KEY (activity_id, batch_id, position)
) STRICT;
