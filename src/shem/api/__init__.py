"""The REST surface: yagna's paths, JSON, status codes and long polls (docs/protocol/*.md).

Reading order: `kit` (what every handler uses), `app` (authentication, errors, the whole table),
then one module per API: `identity`, `net`, `market`, `activity`, `payment`. Handlers parse and
answer; the services decide. Owns no tables.
"""
