"""Activities on both sides: create, exec, results, destroy; the provider's events and monitor.

Pure: `states`, `batches`, `script`, `messages`, `watch`. Records: `records`, `ledger`, `intents`,
`eventlog`. Requestor: `creator`, `batchwork`, `puller`, `reading`, `destroyer`, `resync`,
`standing`, `live`, `stream`, `proxy`. Provider: `provider`, `guard`, `monitor`, `overview`.
`service` puts them together.
"""
