"""Words every part shares: ids, errors, times, callers, clocks, randomness, configuration.

May be imported by all; imports nothing of ours. Reading order: `ids`, `errors`, `caller`, `times`,
`world`, `config`, `log`, `tasks`.
"""
