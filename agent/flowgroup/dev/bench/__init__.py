"""
`make bench`: flowgroup beside `prefect worker start --type process`, on one Prefect server, with the same flows.

It lies here and not among the tests: it stands on what `flowgroup demo` stands on, and no test imports it. A case is a
function in `cases.py`; who is measured is a side in `sides.py`.
"""
