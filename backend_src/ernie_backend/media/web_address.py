"""Reads the URL of an image or video and holds it against the allow-lists of schemes, ports and domains; resolves and opens nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from .sniff import MediaError

MAX_URL_CHARACTERS = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
PUBLIC_PORTS = frozenset((80, 443, 8080, 8443))
"""Ports of web servers. Others (mail, databases, consoles) must not be reached by way of this server."""
_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
_KEPT = "/?:@!$&'()*+,;=~-._%[]"
"""Of a path or query; everything else is percent-encoded."""


@dataclass(frozen=True)
class WebAddress:
    """Where a GET request goes; the parts as they stand on the wire."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def read_web_address(url: str, domains: Sequence[str], *, any_port: bool) -> WebAddress:
    """`MediaError` if the URL is malformed or on no allow-list. `domains` empty: all; `.example.com` means every name below it."""
    if len(url) > MAX_URL_CHARACTERS:
        raise MediaError(f"has a URL of more than {MAX_URL_CHARACTERS} characters")
    if _UNFIT.search(url):
        raise MediaError("has a URL with a space, a control character or a backslash in it")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host = host if ":" in host else host.rstrip(".").encode("idna").decode("ascii").lower()
    except (ValueError, UnicodeError):
        raise MediaError("has a malformed URL") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise MediaError("has a URL of a scheme that is not allowed: give https, http or data")
    if not host or "%" in host:
        raise MediaError("has a URL without a valid host")
    if parts.username is not None or parts.password is not None:
        raise MediaError("has a URL with a user name in it, which this server does not send on")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    if not any_port and port not in PUBLIC_PORTS:
        raise MediaError(f"has a URL with port {port}; allowed are {', '.join(map(str, sorted(PUBLIC_PORTS)))}")
    if domains and not any(_is_of_domain(host, domain) for domain in domains):
        raise MediaError("has a URL whose host is not among the domains that this server fetches from (--allowed-media-domains)")
    target = quote(parts.path or "/", safe=_KEPT) + (f"?{quote(parts.query, safe=_KEPT)}" if parts.query else "")
    return WebAddress(parts.scheme, host, port, target)


def _is_of_domain(host: str, domain: str) -> bool:
    domain = domain.lower().removeprefix("*")
    return host.endswith(domain) if domain.startswith(".") else host == domain
