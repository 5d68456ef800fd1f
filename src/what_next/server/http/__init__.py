"""The endpoint: HTTP in front of engine and store."""

from what_next.errors import MissingExtraError

try:
    import fastapi as fastapi
    import orjson as orjson
    import prometheus_client as prometheus_client
    import uvicorn as uvicorn
except ImportError as error:
    raise MissingExtraError(str(error.name), "serve", "the service") from None
