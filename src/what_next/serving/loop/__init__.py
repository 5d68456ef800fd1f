"""The loop: learn from the service's own log, and deploy only models that are better.

`loop.Loop` is a state machine of durable steps, `journal.Journal` its state and log. The service imports only the
journal.
"""
