"""The helper process that renders chat templates: a sandbox with hard limits; knows jinja and nothing of requests.

Runs as a process of its own because nothing inside a Python process can stop `{% for … %}` inside `{% for … %}` or `'a' * 10**10` for sure.

Talks in lines of JSON. First in: {source, cpu_seconds, memory_bytes, max_characters}; then one {variables} per rendering.
Out: first {text: names of the variables that the template reads, one a line}, then {text} for each rendering; or {error}. End of input
ends it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, meta
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .limited import CpuLimit, limit_memory, send


class RefusedByTemplate(TemplateRuntimeError):
    """What `raise_exception` raises: its text is meant for the user."""


def make_environment() -> Environment:
    """As the checkpoints' templates expect it (transformers sets the same): trimmed blocks, loop controls, four helpers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def render(template: Template, variables: dict[str, Any], max_characters: int) -> str:
    parts, characters = [], 0
    for part in template.generate(variables):  # as one mapping: a user's name such as `self` is no Python argument
        characters += len(part)
        if characters > max_characters:
            raise RefusedByTemplate(f"it renders more than {max_characters} characters")
        parts.append(part)
    return "".join(parts)


def _raise_exception(message: str) -> NoReturn:
    raise RefusedByTemplate(message)


def _to_json(
    value: Any, indent: int | None = None, ensure_ascii: bool = False, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _answer(action: Callable[[], str]) -> dict[str, str]:
    """{text} or {error}: the template's own words, or what went wrong in it."""
    try:
        return {"text": action()}
    except RefusedByTemplate as error:
        return {"error": str(error.message)}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except TemplateError as error:
        return {"error": str(error.message or type(error).__name__)}
    except Exception as error:  # whatever a template's expression may raise: TypeError, ValueError, ZeroDivisionError, …
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    limit_memory(settings["memory_bytes"])
    template: Template | None = None

    def compiled() -> str:
        nonlocal template
        environment = make_environment()
        template = environment.from_string(settings["source"])
        return "\n".join(sorted(meta.find_undeclared_variables(environment.parse(settings["source"]))))

    with CpuLimit(settings["cpu_seconds"]):  # jinja computes constant expressions while it compiles
        answer = _answer(compiled)
    send(answer)
    for line in sys.stdin:
        variables = json.loads(line)
        assert template is not None, "the parent ends a worker whose template does not compile"
        current = template
        with CpuLimit(settings["cpu_seconds"]):
            answer = _answer(lambda: render(current, variables, settings["max_characters"]))  # noqa: B023  (called at once)
        send(answer)
