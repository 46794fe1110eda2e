"""The page at ``/``: three files of the package, which ask for nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

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


def _file(name: str) -> Response:
    text = _FOLDER.joinpath(name).read_text(encoding="utf-8")
    return Response(text, media_type=f"{_KINDS[name]}; charset=utf-8", headers=_HEADERS)
