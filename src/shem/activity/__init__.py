"""Activities on both sides: create, exec, results, destroy; the provider's events and monitor.

Pure: `states`, `batches`, `script` with `scriptparts` and `jsontext`, `messages`, `watch`.

Rows: `records`, `ledger` (a requestor's batches), `results`, `intents`, `eventlog` (what agents are
told), `keptrows` (what is left of activities whose ExeUnit has ended).

Requestor: `creator`, `batchwork`, `puller`, `reading`, `live` with `stream`, `proxy`, `destroyer`,
all by way of `peer`; after an absence `resync`, `standing`, and `takeup` on a new machine.

Provider: `provider` and, in front of every ExeUnit, `guard`; `usages`, `monitor`, `overview`;
behind an ExeUnit that has ended `keeper` and `aftermath`. `parties` asks who may, for both sides.

`service` puts them together. Tables: `activity`, `activity_intent`, `activity_batch`,
`activity_result`, `activity_event`, `kept_activity`, `kept_batch`, `kept_result`.
Protocol: docs/protocol/activity-exeunit.md.
"""
