"""The room that claims runs and owns clusters. Holds the API token; never runs user code."""
