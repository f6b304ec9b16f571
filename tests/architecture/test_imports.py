"""The import arrows of ARCHITECTURE.md. A new arrow fails here: either it is a mistake, or table and document change together."""

from __future__ import annotations

import pytest

from tests.architecture.sources import OURS, ROOT, imports, is_within, module_files

BACKEND_BELOW_BUILD = ("core", "execution", "engine", "delivery", "relay", "timeline", "metrics", "protocol", "errors", "config")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "ernie_openai": (
        *(f"ernie_backend.{name}" for name in ("protocol", "errors", "strict_json", "log_format", "tracing", "api_keys")),
        "ernie_backend.flag_parsing",
    ),
    "ernie_backend": (),
    "ernie_backend.errors": (),
    "ernie_backend.protocol": (),
    "ernie_backend.relay": (),
    "ernie_backend.abort_signal": ("ernie_backend.errors",),
    "ernie_backend.json_depth": (),
    "ernie_backend.strict_json": ("ernie_backend.errors", "ernie_backend.json_depth"),
    "ernie_backend.api_keys": ("ernie_backend.errors",),
    "ernie_backend.log_format": (),
    "ernie_backend.number_text": (),
    "ernie_backend.model_folder": (),
    "ernie_backend.flag_parsing": tuple(f"ernie_backend.{name}" for name in ("log_format", "number_text", "strict_json")),
    "ernie_backend.metrics": (),
    "ernie_backend.tracing": ("ernie_backend.errors",),
    "ernie_backend.json_reader": ("ernie_backend.errors",),
    "ernie_backend.model_config": tuple(f"ernie_backend.{name}" for name in ("errors", "json_reader", "model_folder")),
    "ernie_backend.config": tuple(
        f"ernie_backend.{name}" for name in ("errors", "model_config", "model_folder", "media_fields", "log_format", "tracing")
    ),
    "ernie_backend.known_fields": ("ernie_backend.errors",),
    "ernie_backend.media_fields": ("ernie_backend.protocol", "ernie_backend.errors", "ernie_backend.known_fields"),
    "ernie_backend.sampling_fields": tuple(f"ernie_backend.{name}" for name in ("protocol", "errors", "number_text")),
    "ernie_backend.core": ("ernie_backend.protocol", "ernie_backend.errors", "ernie_backend.config"),
    "ernie_backend.timeline": tuple(f"ernie_backend.{name}" for name in ("core.outputs", "protocol", "errors", "metrics")),
    "ernie_backend.engine_metrics": tuple(f"ernie_backend.{name}" for name in ("core", "protocol", "config", "metrics", "timeline")),
    "ernie_backend.engine": tuple(f"ernie_backend.{name}" for name in ("core", "protocol", "errors", "abort_signal", "timeline")),
    "ernie_backend.delivery": ("ernie_backend.core.outputs", "ernie_backend.relay", "ernie_backend.protocol"),
    "ernie_backend.text": (
        *(f"ernie_backend.{name}" for name in ("protocol", "errors", "abort_signal", "config")),
        *(f"ernie_backend.{name}" for name in ("known_fields", "media_fields", "strict_json", "json_depth")),
    ),
    "ernie_backend.media": tuple(
        f"ernie_backend.{name}" for name in ("protocol", "errors", "abort_signal", "media_fields", "metrics", "model_folder")
    ),
    "ernie_backend.execution": (
        "ernie_backend.core.outputs",
        "ernie_backend.config",
        "ernie_backend.model_config",
        "ernie_backend.protocol",
        "ernie_backend.errors",
        "ernie_kernels",
    ),
    "ernie_backend.build": (*(f"ernie_backend.{name}" for name in BACKEND_BELOW_BUILD), "ernie_kernels.xp"),
    "ernie_backend.triton_adapter": (
        *(f"ernie_backend.{name}" for name in ("build", "text", "media", "engine", "delivery", "relay")),
        *(f"ernie_backend.{name}" for name in ("engine_metrics", "metrics", "log_format", "tracing", "json_depth")),
        *(
            f"ernie_backend.{name}"
            for name in ("protocol", "sampling_fields", "known_fields", "media_fields", "strict_json", "errors", "abort_signal", "config")
        ),
    ),
    "ernie_backend.checkpoint_writer": (
        "ernie_backend.config",
        "ernie_backend.errors",
        "ernie_backend.execution.weight_map",
        "ernie_backend.execution.safetensors_file",
        "ernie_backend.model_config",
        "ernie_backend.text.vl_templates",
    ),
    "ernie_backend.benchmark": (
        *(f"ernie_backend.{name}" for name in ("core", "execution", "protocol", "errors", "config", "model_config")),
        "ernie_kernels",
    ),
    "ernie_backend.cli.bench_server": tuple(f"ernie_backend.{name}" for name in ("benchmark", "cli", "errors", "flag_parsing")),
    "ernie_backend.benchmark.load_client": (),
    "ernie_backend.benchmark.process_usage": (),
    "ernie_backend.benchmark.clock": ("ernie_backend.core", "ernie_backend.config", "ernie_backend.errors"),
    "ernie_backend.benchmark.naive": ("ernie_backend.benchmark.clock",),
    "ernie_backend.benchmark.path_bench": ("ernie_backend.benchmark", "ernie_backend.text.tokenizer", "ernie_backend.errors"),
    "ernie_backend.cli.bench_path": tuple(f"ernie_backend.{name}" for name in ("benchmark", "cli", "errors", "flag_parsing")),
    "ernie_backend.benchmark.server_bench": ("ernie_backend.benchmark.load_client", "ernie_backend.errors"),
    "ernie_backend.cli.bench_engine": (
        "ernie_backend.cli.flags",
        "ernie_backend.flag_parsing",
        *(
            f"ernie_backend.{name}"
            for name in ("benchmark", "checkpoint_writer.published", "execution.random_model", "protocol", "errors", "config")
        ),
        "ernie_kernels.xp",
    ),
    "ernie_backend.cli": (
        *(f"ernie_backend.{name}" for name in ("config", "errors", "relay", "api_keys", "checkpoint_writer", "execution.safetensors_file")),
        *(f"ernie_backend.{name}" for name in ("log_format", "tracing", "flag_parsing", "model_folder")),
        "ernie_demo_model",
    ),
    "ernie_demo": (
        *(f"ernie_backend.{name}" for name in ("checkpoint_writer", "config", "execution.safetensors_file", "execution.sequence_media")),
        *(f"ernie_backend.{name}" for name in ("media", "media_fields", "model_config", "protocol", "text")),
        "ernie_backend.triton_adapter.media_prompt",
    ),
    "ernie_demo.cases": (),
    "ernie_demo.skills": ("ernie_demo.cases", "ernie_demo.drawing", "ernie_demo.text"),
    "ernie_demo.text": ("ernie_demo.cases",),
    "ernie_demo_model": (),
    "ernie_kernels": (),
    "ernie_kernels.xp": (),
    "ernie_kernels.weights": ("ernie_kernels.xp",),
    "ernie_kernels.metadata": ("ernie_kernels.xp",),
    "ernie_kernels.reference": ("ernie_kernels.xp", "ernie_kernels.weights", "ernie_kernels.metadata"),
    "ernie_kernels.cpu": ("ernie_kernels.xp", "ernie_kernels.weights", "ernie_kernels.metadata"),
    "ernie_kernels.interpreter": ("ernie_kernels.xp",),
    "ernie_kernels.launch": ("ernie_kernels.xp", "ernie_kernels.interpreter"),
    "ernie_kernels.triton": tuple(f"ernie_kernels.{name}" for name in ("launch", "xp", "weights", "metadata", "reference.sampling")),
    "ernie_kernels.cpu.operators": tuple(f"ernie_kernels.{name}" for name in ("cpu", "reference", "xp", "weights", "metadata")),
    "ernie_kernels.gpu": tuple(f"ernie_kernels.{name}" for name in ("launch", "triton", "xp", "weights", "metadata")),
    "ernie_kernels.ops": (*(f"ernie_kernels.{name}" for name in ("reference", "cpu", "gpu", "xp", "weights", "metadata")),),
    "ernie_kernels.op_spec": ("ernie_kernels.xp",),
    "ernie_kernels.vision_specs": (*(f"ernie_kernels.{name}" for name in ("ops", "op_spec", "reference", "xp", "weights")),),
    "ernie_kernels.specs": (
        *(f"ernie_kernels.{name}" for name in ("ops", "op_spec", "vision_specs", "reference", "cpu", "xp", "weights", "metadata")),
    ),
    "ernie_kernels.bench": (
        "ernie_kernels.specs",
        "ernie_kernels.ops",
        "ernie_kernels.xp",
        "ernie_kernels.weights",
        "ernie_kernels.metadata",
    ),
}
"""Package or module → what of ours it may import besides itself; the longest matching key decides."""

_WITH_NUMPY = ("execution", "triton_adapter", "media", "checkpoint_writer", "benchmark.naive")

ONLY_IN: dict[str, tuple[str, ...]] = {
    "paddle": ("ernie_kernels.xp._paddle",),
    "torch": ("ernie_kernels.xp._torch", "ernie_backend.benchmark.transformers_peer", "ernie_demo"),
    "numba": ("ernie_kernels.cpu",),
    "transformers": ("ernie_backend.benchmark.transformers_peer", "ernie_demo"),
    "triton": ("ernie_kernels.launch", "ernie_kernels.interpreter", "ernie_kernels.triton"),
    "fastapi": ("ernie_openai",),
    "starlette": ("ernie_openai",),
    "pydantic": ("ernie_openai",),
    "uvicorn": ("ernie_openai",),
    "tritonclient": (
        "ernie_openai",
        "ernie_backend.benchmark.load_client",
        "ernie_backend.triton_adapter.settings",  # its protobuf of config.pbtxt
    ),
    "grpc": ("ernie_openai", "ernie_backend.benchmark.load_client"),
    "aiohttp": ("ernie_backend.benchmark.load_client",),
    "jinja2": ("ernie_backend.text",),
    "llguidance": ("ernie_backend.text.grammar_worker", "ernie_backend.execution.constraint"),
    "sentencepiece": ("ernie_backend.text", "ernie_backend.checkpoint_writer", "ernie_demo.tokenizer"),
    "triton_python_backend_utils": (),
    "opentelemetry": ("ernie_backend.tracing",),
    "prometheus_client": ("ernie_openai",),
    "PIL": ("ernie_backend.media", "ernie_demo"),
    "av": ("ernie_backend.media", "ernie_demo.requests"),
    "httpcore2": ("ernie_backend.media",),
    "numpy": tuple(f"ernie_{name}" for name in ("kernels", "demo", *(f"backend.{part}" for part in _WITH_NUMPY))),
}
"""Other people's package → the only modules of ours that may import it."""

STANDARD_LIBRARY_NOT_IN_CORE = ("threading", "asyncio", "multiprocessing", "queue", "socket", "subprocess")


def _rule(name: str) -> str:
    matching = [key for key in MAY_IMPORT if is_within(name, key)]
    return max(matching, key=len)


@pytest.mark.parametrize("name", sorted(module_files()))
def test_arrows(name: str) -> None:
    rule = _rule(name)
    allowed = (rule, *MAY_IMPORT[rule]) if rule not in OURS or rule in ("ernie_openai", "ernie_demo") else MAY_IMPORT[rule]
    for target in imports(name, module_files()[name]):
        if target.split(".")[0] in OURS:
            assert any(is_within(target, prefix) for prefix in allowed), f"{name} must not import {target} (allowed: {', '.join(allowed)})"
        places = ONLY_IN.get(target.split(".")[0])
        assert places is None or any(is_within(name, place) for place in places), f"{name} must not import {target.split('.')[0]}"
        if is_within(name, "ernie_backend.core"):
            assert target.split(".")[0] not in STANDARD_LIBRARY_NOT_IN_CORE, (
                f"{name} must not import {target}: core has no threads and no I/O"
            )


def test_models_only_hand_over_to_the_adapter() -> None:
    models = sorted((ROOT / "model_repository").glob("*/1/model.py"))
    assert [path.parents[1].name for path in models] == ["ernie_engine", "ernie_postprocess", "ernie_preprocess"]
    for path in models:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path
        for target in imports("model", path):
            known = ("__future__", "typing", "triton_python_backend_utils", "ernie_backend.triton_adapter")
            assert any(is_within(target, prefix) for prefix in known), f"{path.relative_to(ROOT)} must not import {target}"


def test_every_rule_is_about_something() -> None:
    """A rule for a module that has gone would silently allow nothing and forbid nothing."""
    names = set(module_files())
    for prefix in {*MAY_IMPORT, *(target for targets in MAY_IMPORT.values() for target in targets)}:
        assert any(is_within(name, prefix) for name in names), f"{prefix} does not exist"
