"""Where the program meets the world. Only this package speaks to Prefect's API, stores and processes."""
