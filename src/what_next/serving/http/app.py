"""The service as an ASGI application: its routes, and the layers before them."""

from starlette.middleware import Middleware
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from what_next.serving.engine import Engine
from what_next.serving.http import operations, recommendations, schema  # noqa: F401 (they make the operations)
from what_next.serving.http.log import Log
from what_next.serving.http.metrics import Metrics
from what_next.serving.http.middleware import AccessLog, Admission, Deadline, Problems
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import Problem
from what_next.serving.http.routes import routes
from what_next.serving.store import Store, Writer
from what_next.settings import Setup


class Application(Router):
    """The service; `parts` are what its operations need, and may come later."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        layers = [
            Middleware(AccessLog, parts),
            Middleware(Problems, parts),
            Middleware(Deadline, parts.settings.timeout),
            Middleware(Admission, parts),
        ]
        super().__init__(routes(), redirect_slashes=False, middleware=layers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the service, which the layers do not see; there are no web sockets."""
        await (self.middleware_stack if scope["type"] == "http" else self.app)(scope, receive, send)

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Where no route leads."""
        if scope["type"] == "http":
            raise Problem(404, "there is no such path")
        await super().not_found(scope, receive, send)


def create_app(
    engine: Engine | None, store: Store | None, writer: Writer | None, setup: Setup, metrics: Metrics | None = None
) -> Application:
    """The service as an ASGI application.

    Args:
        engine, store, writer: None while the service starts: put them into its `parts` when they are there.
        setup: its `server` settings hold.
        metrics: those that the engine counts with; None: new ones.
    """
    settings = setup.server
    return Application(Parts(settings, metrics or Metrics(), Log(settings.log_ids), engine, store, writer))
