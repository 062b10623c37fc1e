"""Half an hour of everything that a pool does each day, and whether anything of ours grows meanwhile: `make soak`."""
