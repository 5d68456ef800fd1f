"""Logs of decisions: which items were shown, their propensities, and their rewards."""
