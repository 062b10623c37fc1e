"""The only way from a cluster to the Prefect API. Holds the API token; never runs user code."""
