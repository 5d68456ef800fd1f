"""Losses: pure functions on tensors. Those over a whole catalogue never hold steps times items."""
