"""The doctor's checks: a function each, which gives a detail, or raises Wrong or Unknown."""
