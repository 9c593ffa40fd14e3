"""The lifespan conversation with one app: the table that decides, and the session that follows it."""
