"""Everything on one machine: a Prefect server, the daemon and a demo. For people who try things out, and for tests."""
