"""The page for people: how everything stands now, read-only, behind a token. Nothing of it comes from elsewhere."""
