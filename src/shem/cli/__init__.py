"""The `shem` command. Each sub-command's module is imported only when it is used.

Reading order: `main` (the table of commands), `ask` (how a command talks to the running node),
`lifetime` (how a long-running one ends), `later` (what is not built yet). Then one module per
command, with helpers that begin with its name:

`node`, `relay`, `market`, `app_keys`, `gftp`; `identity` with `identity_keystores` and
`identity_words`; `net` with `net_rows` and `net_trace`; `activity` with `activity_copy`,
`activity_live`, `activity_lookup` and `activity_rows`; `provider` with `provider_clean`,
`provider_keystore`, `provider_outbound`, `provider_presets`, `provider_profiles`, `provider_rows`,
`provider_rules`, `provider_status` and `provider_whitelist`. Exit codes: docs/exit-codes.md.
"""
