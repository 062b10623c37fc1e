"""The chart's certificates: a CA of its own, what the daemon and the relay show, and the key between them."""
