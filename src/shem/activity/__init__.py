"""Activities on both sides: create, exec, results, destroy; the provider's events and monitor.

Pure: `states`, `batches`, `script`, `messages`, `watch`. Records: `records`, `ledger`. Shell:
`requestor`, `batchwork`, `puller`, `destroyer`, `stream` (requestor); `provider`, `events`,
`guard`, `monitor` (provider); `service` puts them together.
"""
