"""What those ask who keep the service running, and the page."""

from importlib.resources import files
from pathlib import PurePath
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from what_next.serving.http import replies
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import Problem, not_ready

router = APIRouter()

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
}
"""Files of the page that are served, by their endings; what else lies there (licences, code) is not."""

PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def page_files() -> dict[str, bytes]:
    """The files of the page, by name; read once, so that no request names a path."""
    folder = files("what_next.serving") / "page"
    if not folder.is_dir():
        return {}
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and PurePath(file.name).suffix in KINDS
    }


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


@router.head("/health", include_in_schema=False)
@router.get("/health", response_model=replies.Health, operation_id="health")
async def health() -> Response:
    """Tell that the process lives; needs no key."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=replies.Ready, operation_id="ready")
async def ready(request: Request) -> Response:
    """Tell whether model, store and popular items are there; otherwise 503, and what is missing; needs no key.

    The store is missing, too, where it takes no more writes, such as on a full disk.
    """
    parts = _parts(request)
    missing = list(parts.engine.missing()) if parts.engine is not None else ["model"]
    if not await parts.store_works():
        missing.append("store")
    if missing:
        raise not_ready(list(dict.fromkeys(missing)))
    return Response(orjson.dumps({"ready": True}), media_type="application/json")


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def metrics(request: Request) -> Response:
    """Tell all numbers that the service counts, as Prometheus reads them."""
    parts = _parts(request)
    return Response(await parts.run(parts.metrics.text), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return _file(request, "page.html")


@router.get("/page/{name}", include_in_schema=False)
async def page_file(request: Request, name: Annotated[str, Path(max_length=64)]) -> Response:
    """A file of the page."""
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    held: dict[str, bytes] = request.app.state.page
    if name not in held:
        raise Problem(404, "there is no such page")
    kind = KINDS[PurePath(name).suffix]
    return Response(held[name], headers={"content-type": kind, **PAGE_HEADERS})
