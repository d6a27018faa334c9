"""The REST surface: yagna's paths, JSON, status codes and long polls (docs/protocol/*.md).

Reading order: `kit` (what every handler uses), `contract` (what a route promises), `paths` (which
route is meant), `app` (authentication, errors, the whole table), `sessions` (which run of a program
calls); then one module per API: `identity`, `net`, `market` with `market_agreements`,
`market_scan`, `market_models` and `market_reading`, `activity` with `activity_promises`, `payment`.
`openapi` and `docs_page` tell people of it. Handlers parse and answer; the services decide. Owns no
tables.
"""
