"""The SDK: rent, run, detach, attach. `import shem` gives its public names.

Reading order: `golem` (start here), `opening`, `activity`, `batch`, `agreement`, `report`,
`absence`, `ticket`, `payloads`, `script`, `errors`; then `service` with `running` and `memory`, and
`map` with `workers` and `progress`; both stand on `journal`, `claims` and `steps`. Behind them:
`rental`, `negotiation`, `demand`, `submission`, `patience`, `session`. Imports only the kernel and
the REST client.
"""
