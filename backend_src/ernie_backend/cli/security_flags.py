"""The flags of `serve` that say who may come in and how: keys, TLS, origins; starts nothing and knows no other flag."""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..api_keys import ENVIRONMENT_VARIABLE, distinct, keys_of_environment, left_open, make_key, read_key_file
from ..errors import ConfigError

_ORIGIN = re.compile(r"\*|https?://[A-Za-z0-9.\-_\[\]:]+")


@dataclass(frozen=True)
class SecurityOptions:
    """Who may come in. `repr` does not show the keys."""

    api_keys: tuple[str, ...]
    api_key_file: str | None
    allowed_origins: tuple[str, ...]
    ssl_certfile: str | None
    ssl_keyfile: str | None
    ssl_ca_certs: str | None

    def __repr__(self) -> str:
        return f"SecurityOptions({len(self.api_keys)} keys, tls={self.uses_tls})"

    @property
    def uses_tls(self) -> bool:
        return self.ssl_certfile is not None

    @property
    def asks_for_keys(self) -> bool:
        return bool(self.api_keys) or self.api_key_file is not None

    def front_end_arguments(self) -> list[str]:
        """For the front end's command line, which everyone on this machine can read: no keys."""
        files = {
            "api-key-file": self.api_key_file,
            "ssl-certfile": self.ssl_certfile,
            "ssl-keyfile": self.ssl_keyfile,
            "ssl-ca-certs": self.ssl_ca_certs,
        }
        arguments = [f"--{name}={value}" for name, value in files.items() if value is not None]
        return [*arguments, *(["--allowed-origins", *self.allowed_origins] if self.allowed_origins else [])]

    def environment(self, inherited: Mapping[str, str], *, with_keys: bool) -> dict[str, str]:
        """`inherited`, with the keys for the front end, without them for everyone else."""
        others = {name: value for name, value in inherited.items() if name != ENVIRONMENT_VARIABLE}
        return others | ({ENVIRONMENT_VARIABLE: ",".join(self.api_keys)} if with_keys and self.api_keys else {})

    def warnings(self, host: str, triton_host: str) -> list[str]:
        """What a launch line leaves open to others, one line each."""
        found = []
        if not _is_loopback(triton_host):
            around = " It goes around the API keys." if self.asks_for_keys else ""
            found.append(
                f"warning: --triton-host {triton_host}: Triton's ports have no authentication, and everyone who reaches them may use them."
                f"{around} Let only your own hosts reach them."
            )
        if not self.asks_for_keys and not _is_loopback(host):
            found.append(f"warning: --host {host} without --api-key or --api-key-file: everyone who reaches this machine may ask.")
        if self.api_key_file is not None and (open_to := left_open(self.api_key_file)) is not None:
            found.append(f"warning: --api-key-file {open_to} {self.api_key_file}")
        return found


def add_arguments(group: argparse._ArgumentGroup) -> None:
    keys = f"requests need one of the keys (repeatable; {ENVIRONMENT_VARIABLE}=KEY,KEY hides them from process lists)"
    group.add_argument("--api-key", action="append", default=[], metavar="KEY", help=keys)
    file = "keys, one a line, behind each its scopes such as infer,metrics or admin; read again when it changes"
    group.add_argument("--api-key-file", metavar="FILE", help=file)
    group.add_argument("--ssl-certfile", metavar="FILE", help="the front end speaks TLS with this certificate and chain (PEM)")
    group.add_argument("--ssl-keyfile", metavar="FILE", help="its key, unencrypted (default: in --ssl-certfile)")
    group.add_argument("--ssl-ca-certs", metavar="FILE", help="clients must show a certificate of one of these authorities")
    origins = 'origins of web pages that may ask, such as ["https://chat.example"] (default: none)'
    group.add_argument("--allowed-origins", nargs="+", default=[], metavar="ORIGIN", help=origins)


def read_security(args: argparse.Namespace, environment: Mapping[str, str]) -> SecurityOptions:
    """`ConfigError` for files that cannot be used and values that mean nothing; no message shows a key."""
    keys = distinct((*args.api_key, *keys_of_environment(environment)))
    for key in keys:
        make_key(key)
    files = {name: _absolute(getattr(args, name)) for name in ("api_key_file", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs")}
    options = SecurityOptions(api_keys=keys, allowed_origins=_origins(args.allowed_origins), **files)
    if options.api_key_file is not None and not read_key_file(options.api_key_file):
        raise ConfigError(f"--api-key-file {options.api_key_file!r} holds no key. Write one a line.", param="api_key_file")
    _check_tls(options)
    return options


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


def _origins(given: Sequence[str]) -> tuple[str, ...]:
    """Words, or a JSON list as vLLM takes it."""
    origins: list[object] = []
    for text in given:
        try:
            listed = json.loads(text) if text.startswith("[") else [text]
        except ValueError:
            listed = [text]
        origins += listed
    if "*" in origins and len(origins) > 1:
        raise ConfigError("--allowed-origins: '*' stands alone.", param="allowed_origins")
    for origin in origins:
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"--allowed-origins must be origins such as https://chat.example (no path), got {origin!r}.", param="allowed_origins"
            )
    return tuple(map(str, origins))


def _check_tls(options: SecurityOptions) -> None:
    if options.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_ca_certs"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} means nothing without --ssl-certfile.", param=name)
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without the password function an encrypted key would make OpenSSL ask at the terminal.
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "the key is encrypted"
        hint = "" if options.ssl_keyfile else " Is the key in a file of its own? Give it with --ssl-keyfile."
        raise ConfigError(f"--ssl-certfile and --ssl-keyfile cannot be used: {reason}.{hint}", param="ssl_certfile") from None
    if options.ssl_ca_certs is not None:
        try:
            context.load_verify_locations(options.ssl_ca_certs)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise ConfigError(f"--ssl-ca-certs cannot be used: {reason}.", param="ssl_ca_certs") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
