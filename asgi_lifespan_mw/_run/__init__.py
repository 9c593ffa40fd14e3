"""One run of hooks, wrapped app and mounts: the order, the apps, what each kind of unit does in its task."""
