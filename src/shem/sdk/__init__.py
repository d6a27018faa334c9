"""The SDK: rent, run, detach, attach. `import shem` gives its public names.

Reading order: `golem` (start here), `activity`, `batch`, `agreement`, `report`, `ticket`,
`payloads`, `script`, `errors`; behind them `rental`, `negotiation`, `demand`, `submission`,
`patience`, `session`. Imports only the kernel and the REST client.
"""
