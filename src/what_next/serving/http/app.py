"""The application: routes, their documentation, and the gate before them."""

import inspect
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from what_next import __version__
from what_next.serving.engine import Engine
from what_next.serving.http import operations, reads, replies
from what_next.serving.http.gate import Gate
from what_next.serving.http.keys import KeyRing
from what_next.serving.http.log import Log
from what_next.serving.http.metrics import Metrics
from what_next.serving.http.parts import Parts
from what_next.serving.http.posts import HEADER, IDEMPOTENCY_KEY, Post
from what_next.serving.http.problems import Problem, internal, of_validation, problem_of
from what_next.serving.http.table import POSTS
from what_next.serving.store import Store, Writer
from what_next.settings import Setup

ABOUT = """Recommendations from a trained agent, and the log of what was shown and what happened next.

Errors have one shape: `error.code` for programs, `error.message` for people, and `error.fields` with what is wrong with
each field. What is answered with 503 or 429 may be sent again after `Retry-After` seconds.
"""

ANY = {
    401: "a key is needed, or is not known",
    403: "the key's role does not permit this, or the host is not this machine's own",
    408: "the body did not come in time",
    429: "more than one caller may ask in a second; `Retry-After` tells when there is room",
    500: "our own fault; the service's log tells more",
    503: "the store is away, the service is starting, or more is asked than can be answered in time; `Retry-After` "
    "tells when to try again",
    504: "it took longer than a request may take",
}
"""What any request may meet."""

IDEMPOTENCY = {
    "name": HEADER,
    "in": "header",
    "description": "the same request with the same key gets the first answer again for a day; another request is 422",
    "schema": {"type": "string", "pattern": f"^({IDEMPOTENCY_KEY})$"},
    "examples": {"uuid": {"value": "8e03978e-40d5-43dd-bc93-6894a57f9324"}},
}

OF_BODIES = {
    400: "the body is no JSON, or there are two Host headers",
    413: "the body is too large",
    415: "the body is not told to be JSON",
    422: "fields that are not as they must be, with reasons",
}


class Application(FastAPI):
    """FastAPI's application behind the gate: most requests never reach its layers."""

    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the service."""
        await self.gate(scope, receive, send)


def create_app(
    engine: Engine | None, store: Store | None, writer: Writer | None, setup: Setup, metrics: Metrics | None = None
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        engine, store, writer: None while the service starts: put them into `app.state.parts` when they are there.
        setup: its `server` settings hold.
        metrics: those that the engine counts with; None: new ones.
    """
    settings = setup.server
    parts = Parts(settings, metrics or Metrics(), Log(settings.log_ids), engine, store, writer)
    if store is not None:
        parts.keys = KeyRing(store, parts.metrics.store_failed)
    parts.watch()
    app = Application(
        title="What Next?",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # these pages would load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.parts, app.state.page = parts, operations.page_files()
    for post in POSTS.values():
        _document(app, post)
    _include(app)
    app.gate = Gate(partial(FastAPI.__call__, app), parts, POSTS)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)  # the gate hears of it, too, and notes it
    _schema(app, settings.needs_keys)
    return app


def _include(app: FastAPI) -> None:
    """The routes without a body, with the errors that each may answer."""
    app.include_router(reads.router, responses=_responses({**ANY, 404: "there is no such item", 422: OF_BODIES[422]}))
    app.include_router(operations.router, responses=_responses(ANY))


def _document(app: FastAPI, post: Post) -> None:
    """Puts a request with a body into the schema; the gate answers it before the router would."""

    async def documented(body: Any) -> Response:
        raise AssertionError(f"{post.path} is answered by the gate")

    documented.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("body", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=post.body)]
    )
    examples = {name: {"value": value} for name, value in post.examples.items()}
    summary, _, description = inspect.cleandoc(post.about).partition("\n\n")
    app.add_api_route(
        post.path,
        documented,
        methods=["POST"],
        operation_id=post.name,
        summary=summary,
        description=description or summary,
        status_code=post.status,
        response_model=post.reply,
        responses={
            post.status: {"content": {"application/json": {"example": post.answered}}},
            **_responses({**ANY, **OF_BODIES, **post.refuses}),
        },
        openapi_extra={
            "requestBody": {"content": {"application/json": {"examples": examples}}},
            **({"parameters": [IDEMPOTENCY]} if post.asks else {}),
        },
    )


def _responses(refused: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": replies.Error, "description": about} for status, about in sorted(refused.items())}


def _schema(app: FastAPI, needs_keys: bool) -> None:
    """The OpenAPI schema, made once: who may ask is told for all requests alike."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemes = made.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["bearer"] = {"type": "http", "scheme": "bearer", "description": "a key of `what-next key add`"}
            schemes["header"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
            if needs_keys:
                made["security"] = [{"bearer": []}, {"header": []}]
                for path in ("/health", "/ready"):
                    made["paths"][path]["get"]["security"] = []
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


async def _refused(request: Request, error: Exception) -> Response:
    """What the router itself refuses: a path or a method that there is not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _answer(Problem(405, "this path has no such method", headers={"allow": _allowed(request)}))
    return _answer(Problem(error.status_code, "there is no such path"))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(of_validation(error.errors()))


async def _failed(request: Request, error: Exception) -> Response:
    return _answer(problem_of(error) or internal())


def _allowed(request: Request) -> str:
    """The methods of a path."""
    path, found = request.scope["path"], set[str]()
    for template, methods in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            found |= {name.upper() for name in methods}
    return ", ".join(sorted(found or {"GET"}))


def _answer(problem: Problem) -> Response:
    return Response(problem.body, problem.status, dict(problem.headers), media_type="application/json")
