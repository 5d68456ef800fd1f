"""The HTTP endpoint in front of engine and store."""
