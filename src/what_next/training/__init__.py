"""Helpers of the training loop: the gradient step, files, checkpoints, validation, alarms, tracking."""
