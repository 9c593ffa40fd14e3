"""The hooks that a user registers, and how each is called. Nothing here runs a task."""
