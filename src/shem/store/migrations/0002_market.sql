-- shem:set node
-- Offers, Demands, Proposals, Agreements and their events (docs/protocol/market.md).

-- `identity` is the issuer; `own` tells ours from what was heard of. Unsubscribed rows stay as marks
-- until they expire, so that a late broadcast does not bring them back.
CREATE TABLE subscription (
    subscription_id TEXT PRIMARY KEY,
    kind            TEXT NOT NULL CHECK (kind IN ('offer', 'demand')),
    own             INTEGER NOT NULL,
    identity        TEXT NOT NULL,
    properties      TEXT NOT NULL,
    constraints     TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('active', 'unsubscribed')),
    created_ns      INTEGER NOT NULL,
    inserted_ns     INTEGER NOT NULL,
    expires_ns      INTEGER NOT NULL
) STRICT;
CREATE INDEX subscription_active ON subscription (kind, expires_ns) WHERE state = 'active';
CREATE INDEX subscription_own ON subscription (identity, kind, created_ns) WHERE own = 1;
CREATE INDEX subscription_inserted ON subscription (kind, inserted_ns, subscription_id);
CREATE INDEX subscription_expiry ON subscription (expires_ns);

-- `delivery` tells what is known about our own proposals at the peer.
CREATE TABLE proposal (
    proposal_id      TEXT PRIMARY KEY,
    identity         TEXT NOT NULL,
    role             TEXT NOT NULL,
    subscription_id  TEXT NOT NULL,
    offer_id         TEXT NOT NULL,
    demand_id        TEXT NOT NULL,
    requestor        TEXT NOT NULL,
    provider         TEXT NOT NULL,
    issuer           TEXT NOT NULL,
    prev_proposal_id TEXT,
    countered_by     TEXT,
    state            TEXT NOT NULL,
    reason           TEXT,
    delivery         TEXT NOT NULL CHECK (delivery IN ('none', 'posted', 'delivered', 'refused')),
    properties       TEXT NOT NULL,
    constraints      TEXT NOT NULL,
    created_ns       INTEGER NOT NULL,
    expires_ns       INTEGER NOT NULL
) STRICT;
CREATE INDEX proposal_pair ON proposal (offer_id, demand_id, role);
CREATE INDEX proposal_expiry ON proposal (expires_ns);

CREATE TABLE negotiation_event (
    event_id        SERIAL_KEY,
    identity        TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    kind            TEXT NOT NULL CHECK (kind IN ('proposal', 'rejected', 'agreement')),
    proposal_id     TEXT,
    agreement_id    TEXT,
    reason          TEXT,
    event_ns        INTEGER NOT NULL
) STRICT;
CREATE INDEX negotiation_event_queue ON negotiation_event (subscription_id, kind, event_id);
CREATE INDEX negotiation_event_age ON negotiation_event (event_ns);

-- One row per role that this node plays. The terms are kept whole; what other parts ask for is also
-- kept in columns of its own, as it stood in the properties when the agreement was made.
CREATE TABLE agreement (
    agreement_id       TEXT NOT NULL,
    role               TEXT NOT NULL,
    identity           TEXT NOT NULL,
    requestor          TEXT NOT NULL,
    provider           TEXT NOT NULL,
    recipient          TEXT NOT NULL,
    acceptor           TEXT NOT NULL,
    payer              TEXT NOT NULL,
    state              TEXT NOT NULL,
    is_sent            INTEGER NOT NULL,
    proposal_id        TEXT NOT NULL,
    offer_id           TEXT NOT NULL,
    demand_id          TEXT NOT NULL,
    offer_properties   TEXT NOT NULL,
    offer_constraints  TEXT NOT NULL,
    demand_properties  TEXT NOT NULL,
    demand_constraints TEXT NOT NULL,
    created_ns         INTEGER NOT NULL,
    valid_to_ns        INTEGER NOT NULL,
    approved_ns        INTEGER,
    app_session_id     TEXT,
    proposed_signature  TEXT,
    approved_signature  TEXT,
    committed_signature TEXT,
    platform           TEXT,
    payee_address      TEXT,
    payer_address      TEXT,
    pricing_model      TEXT,
    pricing_coeffs     TEXT,
    usage_vector       TEXT,
    expires_ns         INTEGER,
    PRIMARY KEY (agreement_id, role)
) STRICT;
CREATE UNIQUE INDEX agreement_one_per_proposal ON agreement (role, proposal_id);
CREATE INDEX agreement_of_identity ON agreement (identity, created_ns);
CREATE INDEX agreement_expiry ON agreement (expires_ns) WHERE state = 'Approved';
CREATE INDEX agreement_approving ON agreement (role) WHERE state = 'Approving';

-- The log of each agreement: `seq` orders one log, `event_ns` is the cursor of an identity's readers.
CREATE TABLE agreement_event (
    agreement_id   TEXT NOT NULL,
    role           TEXT NOT NULL,
    seq            INTEGER NOT NULL,
    identity       TEXT NOT NULL,
    kind           TEXT NOT NULL,
    event_ns       INTEGER NOT NULL,
    app_session_id TEXT,
    terminator     TEXT,
    reason         TEXT,
    PRIMARY KEY (agreement_id, role, seq)
) STRICT;
CREATE UNIQUE INDEX agreement_event_cursor ON agreement_event (identity, event_ns);
CREATE UNIQUE INDEX agreement_event_kind ON agreement_event (agreement_id, role, kind);
