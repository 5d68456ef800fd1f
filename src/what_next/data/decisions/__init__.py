"""Logs of decisions: what was shown, with which chance, and what it earned."""
