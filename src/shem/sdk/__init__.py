"""The SDK: rent, run, detach, attach. `import shem` gives its public names.

Reading order: `golem` (start here), `opening`, `activity`, `batch` with `live`, `agreement`,
`report`, `absence`, `ticket`, `payloads`, `script`, `errors`; then `service` with `running` and
`memory`, and `map` with `workers` and `progress`; both stand on `journal`, `claims` and `steps`.
Files: `files`, `moving`, `gftp`. Behind them: `rental`, `negotiation`, `demand`, `leaving`,
`submission`, `patience`, `session`. Imports only the kernel and the REST client.
"""
