-- shem:set agent
-- Requestors of agreements with a term for their absence that do not answer, and since when.
CREATE TABLE agent_silence (
    agreement_id TEXT NOT NULL PRIMARY KEY,
    identity     TEXT NOT NULL,
    since_ns     INTEGER NOT NULL
) STRICT;
