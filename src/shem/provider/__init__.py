"""The provider agent: offers, negotiates, and keeps ExeUnits running for the agreements it made.

An ordinary REST client of its node that remembers everything in a store of its own, so that it, the
node and the ExeUnits can each be restarted alone. `agent` puts it together, `command` starts it.

The operator's word: `config`, `files`, `settings`, `presets`, `hardware`, `durations`, `descriptor`
(which runtimes). Offers: `offer`, `pricing`, `offers`, `ledger` (what is promised to whom).

Negotiation: `negotiator`, and `rules` in one fixed order, each with `verdicts`: `rules_payment`,
`rules_absence`, `rules_access` by `policy`, `access`, `whitelist`, `keystore`, `certificates` with
`canonical`, `x509`.

Work: `agreements`, `activities`, `exeunits` with `nursery`, `absence` and `silence` (requestors),
`stand_in` and `handover` (for what ended), `cleaning`, `patience` (with the node).

Tables, in the agent's own store, by `records`: `agent_setting`, `agent_agreement`,
`agent_activity`, `agent_silence`. Protocol: docs/protocol/provider-agent.md.
"""
