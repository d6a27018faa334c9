-- shem:set node
-- Peers heard lately (net/acquaintances.py), so that a node that restarts can look them up.
CREATE TABLE net_acquaintance (
    node_id TEXT PRIMARY KEY,
    met_ns INTEGER NOT NULL
) STRICT;
