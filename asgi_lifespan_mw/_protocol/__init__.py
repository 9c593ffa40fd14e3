"""The lifespan protocol: the table of its rules, and the session that applies them to one app."""
