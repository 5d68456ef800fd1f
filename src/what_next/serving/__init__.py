"""The service: an engine that answers, a store that persists, and the HTTP endpoint in front of both."""

import logging
from importlib.util import find_spec

from what_next.errors import MissingExtraError

for _name in (
    "cachetools",
    "filelock",
    "orjson",
    "prometheus_client",
    "sqlalchemy",
    "starlette",
    "tenacity",
    "uvicorn",
):
    if find_spec(_name) is None:
        raise MissingExtraError(_name, "serve", "the service")

logger = logging.getLogger(__name__)
"""Messages for the operator of the service."""
