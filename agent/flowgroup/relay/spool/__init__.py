"""
The relay's spool: logs and events on disk, from the moment at which a driver is told "taken" until Prefect's API has them.

`rows` (a record as it is kept) → `disk` (SQLite, one connection) ← `writer` (its one thread) ← `spooling` (what the rest
of the relay calls) and `delivery` (to the API, with `readback` after an answer that was lost).
"""
