"""GET /: the status page and its parts. Static files; what they show they fetch themselves, with the key that the reader types in."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing from elsewhere, nothing inline: even text of a model that got into the page as markup could run nothing and reach nobody."""

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_PARTS = {"page.css": "text/css", "metrics.js": "text/javascript", "chat.js": "text/javascript", "page.js": "text/javascript"}


def _response(name: str, media_type: str) -> Response:
    content = files("ernie_openai").joinpath("status_page", name).read_bytes()
    return Response(content, media_type=f"{media_type}; charset=utf-8", headers=_HEADERS)


@router.get("/")
@router.head("/")
async def page() -> Response:
    return _response("index.html", "text/html")


def _serve(name: str, media_type: str) -> None:
    @router.get(f"/status/{name}", name=name)
    async def part() -> Response:
        return _response(name, media_type)


for _name, _type in _PARTS.items():
    _serve(_name, _type)
