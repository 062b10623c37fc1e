"""The room beside a cluster that runs user code, one child process a run. Holds no token."""
