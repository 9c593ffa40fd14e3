"""What failed and what was done, as records and as strings."""
