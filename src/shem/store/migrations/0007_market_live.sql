-- shem:set node
-- What is looked for at every counter, at every return of a peer, and by the clock.

CREATE INDEX negotiation_event_proposal ON negotiation_event (proposal_id);
CREATE INDEX negotiation_event_agreement ON negotiation_event (agreement_id)
    WHERE agreement_id IS NOT NULL;
CREATE INDEX agreement_live_provider ON agreement (provider)
    WHERE state IN ('Proposal', 'Pending', 'Approving', 'Approved');
CREATE INDEX agreement_live_requestor ON agreement (requestor)
    WHERE state IN ('Proposal', 'Pending', 'Approving', 'Approved');
CREATE INDEX agreement_validity ON agreement (valid_to_ns) WHERE state IN ('Proposal', 'Pending');
