"""Applications for the tests to serve; ``shop`` is the example that the README shows."""
