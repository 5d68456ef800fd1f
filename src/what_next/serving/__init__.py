"""The service: an engine that answers, a store that keeps, and an endpoint for both."""

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
"""What whoever runs the service is told."""
