"""The endpoint: HTTP in front of engine and store."""
