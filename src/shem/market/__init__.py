"""The market: Offers and Demands, negotiation, agreements; both sides, on one node.

Pure: `ids`, `states` (proposals and agreements as tables), `properties`, `constraints` with
`wildcard`, `resolve` (do these match?) with `needs` and `match_index` (who is looked at), `terms`,
`messages` and `refusals` (what nodes say to each other), `forms` (what REST shows).

Rows: `records`, `subscription_rows`, `proposal_rows`, `agreement_rows`.

Offers: `subscriptions` (our own), `discovery` with `announcer` and `offer_server` (others'),
`matching`, `scans`. Negotiation: `proposals`, `proposal_outbound`, `proposal_inbound`, `queues`
(events, until they are acknowledged).

Agreements: `agreements`, `handshake` (how they come into force), `endings`, `agreement_access`,
`agreement_outbound`, `agreement_inbound`, `agreement_server`.

After an absence: `pending` (what a peer does not have yet), `reconcile` (both copies are made to
agree) with `agreement_states` and `authority` (whose word counts), `takeup` on a new machine,
`cleanup`.

`context` is what the parts share, `service` puts them together, `local` answers this node's own
command line. Tables: `subscription`, `proposal`, `negotiation_event`, `agreement`,
`agreement_event`. Protocol: docs/protocol/market.md.
"""
