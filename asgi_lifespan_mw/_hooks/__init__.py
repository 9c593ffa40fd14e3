"""What the user registers, and how each hook is called. Nothing here runs a task."""
