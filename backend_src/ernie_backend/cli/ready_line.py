"""The one line that says that a server is ready and where, as text or as JSON; asks nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from ..log_format import json_line
from .commands import client_host
from .flags import ServeOptions


def ready_line(options: ServeOptions) -> str:
    """All addresses, as a client on this machine would use them."""
    triton, scheme = client_host(options.triton_host), "https" if options.security.uses_tls else "http"
    fields = {
        "model": options.model_name,
        "openai_url": f"{scheme}://{client_host(options.host)}:{options.port}/v1",
        "triton_url": f"http://{triton}:{options.triton_http_port}",
        "triton_grpc": f"{triton}:{options.triton_grpc_port}",
        "metrics_url": f"http://{triton}:{options.metrics_port}/metrics",
    }
    if options.observability.log_format == "json":
        return json_line("serve", "info", "Ready", fields, created=time.time())
    return "Ready: {model} · OpenAI {openai_url} · Triton HTTP {triton_url} · gRPC {triton_grpc} · metrics {metrics_url}".format(**fields)


def say_ready(options: ServeOptions) -> None:
    """On standard output, if there is one. Past Python's buffer: what a full disk or a closed pipe does not take would be tried at the end
    again."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), f"{ready_line(options)}\n".encode())
