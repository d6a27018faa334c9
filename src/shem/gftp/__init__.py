"""GFTP: files between nodes over the bus (docs/protocol/activity-exeunit.md §10.2, §10.3).

Reading order: `protocol` (addresses and messages), `publisher` (the side that has or wants a file
and stays), `transport` (the side that fetches or brings one), `patience` (with silence), `rpc` (the
command that SDKs spawn).
"""
