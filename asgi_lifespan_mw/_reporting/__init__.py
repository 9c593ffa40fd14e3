"""Failures and reports, as records and as strings."""
