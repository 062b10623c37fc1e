"""
`make outage`: a real Prefect server, a proxy that goes wrong on command, our whole local stack; runs that say numbered lines
through every fault, and what the API has of them afterwards. Written to `docs/outage.md`.
"""
