"""The loop: learn from the service's own log, and deploy only what is better.

`loop.Loop` is the machine of persistent steps, `journal.Journal` what it remembers and tells. The service imports the
journal alone.
"""
