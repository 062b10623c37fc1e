"""
A thousand clusters and ten thousand flow groups before the real daemon: `make scale`, and the table in `docs/scale.md`.

Real: the daemon, the relay, Kubernetes' API with its scheduler. Pretended: the nodes (kwok), so that no container runs; the
Dask operator, the drivers and what they carry, and Prefect's API, all in this process (`world.py`).
"""
