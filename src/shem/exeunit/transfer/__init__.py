"""Transfers: files into an activity and out of it (docs/protocol/activity-exeunit.md §10.1).

Reading order: `location` (what a URL says), `inside` (paths of volumes, safely), `fileset` and
`archive` (directories as one file), `budget` (what one transfer may use), `web` (http), `mover`
(any network, with patience), `service` (one transfer from end to end).
"""
