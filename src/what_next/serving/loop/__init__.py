"""The loop: learn from the service's own log, and deploy only what is better.

`Loop` is the machine of persistent steps, `Journal` what it remembers and tells.
"""

from what_next.serving.loop.journal import Journal as Journal
from what_next.serving.loop.journal import journal_path as journal_path
from what_next.serving.loop.loop import Loop as Loop
