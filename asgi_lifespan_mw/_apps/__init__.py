"""Which apps exist, how they are nested, and which of them start by themselves. Objects are read; nothing is run."""
