"""The provider agent: offers, negotiates, and keeps ExeUnits running for the agreements it made.

An ordinary REST client of its node that remembers everything in a store of its own, so that it, the
node and the ExeUnits can each be restarted alone. Reading order: `config`, `descriptor`, `offer`,
`rules`, `records`, `agent` with `negotiator`, `keeper` and `exeunits`, `command`.
Protocol: docs/protocol/provider-agent.md.
"""
