"""The store: units of work on SQLite or PostgreSQL, outbox, inbox, data directory.

Reading order: `unit` (what callers see), `sql` (the common subset), `topics`, `locks`, `schema`,
`sqlite` with `committer`, `postgres`, `open`, `outbox` with `lane`, `inbox`, `datadir`.
Tables: `outbox`, `inbox`; all others belong to the packages that name them.

The common subset of SQL: `:name` parameters; `INSERT … ON CONFLICT …`, CTEs, partial indexes,
COALESCE, COUNT, MAX and MIN as aggregates only; text ids, integers of 64 bits, times as integer
nanoseconds, amounts as text. No `INSERT OR …`, no `LIKE` on what needs exact case, no JSON
functions, no dates.
"""
