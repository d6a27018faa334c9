-- shem:set node
-- Identities that have spoken encrypted with this node, and when last: they are not believed in
-- the clear (net/secure/pin_store.py). Whoever drops the row believes them again.
CREATE TABLE net_pin (
    node_id   TEXT NOT NULL PRIMARY KEY,
    pinned_ns INTEGER NOT NULL
) STRICT;
