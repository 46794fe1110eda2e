"""The pages: ``/``, three files of the package, and ``/docs``; none asks for anything elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from granite_gguf.serve.documentation import as_page

router = APIRouter(include_in_schema=False)

_FOLDER = files("granite_gguf") / "data" / "page"
_KINDS = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def index() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """What belongs to it."""
    if name not in _KINDS:
        raise HTTPException(404, "Not Found")
    return _file(name)


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """What can be asked."""
    return _page(as_page(request.app.openapi()), "text/html")


def _file(name: str) -> Response:
    return _page(_FOLDER.joinpath(name).read_text(encoding="utf-8"), _KINDS[name])


def _page(text: str, kind: str) -> Response:
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)
