"""The store of one node in one SQLite file: the only place of auth that knows SQL."""
