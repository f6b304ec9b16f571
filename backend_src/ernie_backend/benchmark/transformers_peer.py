"""transformers' own ERNIE class with random weights as the peer, timed in this process on the same batches; knows nothing of our engine.

Its forward pass is called as `generate` calls it (default cache, newest token chosen greedily on the device), without what `generate` adds
on the host; attention is the class's default, torch's SDPA. Of a mixture of experts the default implementation is timed (grouped_mm where
torch has it) and, for decode steps whose gathered weights stay below two whole layers' worth, batched_mm too; the faster one counts.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ernie_kernels import xp

from ..errors import ConfigError
from .timing import settle, timed

STANDARD_DEVIATION = 0.02
_FIRST_STEPS = 2
"""Decode steps before the clock starts."""


@dataclass(frozen=True)
class PeerRow:
    """One batch; `ms` of a decode step, or of a prefill with its first tokens. None: it did not fit into the memory."""

    batch: int
    length: int
    """Cached tokens per sequence in the middle of the measurement (decode), tokens of each prompt (prefill)."""
    ms: float | None
    tokens_per_second: float | None
    experts: str
    """The implementation of the experts that was faster; `dense` without any."""


def check_installed() -> None:
    """Raises `ConfigError` if torch or transformers is missing: before anything is measured."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--peer transformers needs {' and '.join(missing)}: pip install {' '.join(missing)}.", param="peer")


class TransformersPeer:
    """One model of the sizes in `config` (a config.json), on the device and in the precision of our engine."""

    def __init__(self, config: dict[str, Any], dtype: str) -> None:
        """Raises `ConfigError` if torch does not see the GPU."""
        import torch
        import transformers

        if xp.on_gpu and not torch.cuda.is_available():
            raise ConfigError("--peer transformers: the installed torch does not see the GPU.", param="peer")
        self.torch = torch
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.device = torch.device("cuda" if xp.on_gpu else "cpu")
        transformers.utils.logging.set_verbosity_error()
        sizes = {key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype", "dtype")}
        with self.device, torch.inference_mode():
            wanted = transformers.AutoConfig.for_model(config["model_type"], **sizes)
            self.model = transformers.AutoModelForCausalLM.from_config(wanted, dtype=getattr(torch, dtype)).eval()
            self._randomise()
        self._cache = transformers.DynamicCache
        self._cache_argument = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        self._is_dense = not hasattr(wanted, "moe_num_experts")

    def _randomise(self) -> None:
        """As our own random model: norms 1, no correction bias, all else N(0, 0.02²)."""
        for name, parameter in self.model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif "bias" in name:
                parameter.zero_()
            else:
                parameter.normal_(0.0, STANDARD_DEVIATION)

    def decode(self, batches: Sequence[int], prompt: int, steps: int) -> Iterator[PeerRow]:
        """`steps` greedy steps of each batch size behind prompts of `prompt` tokens."""
        for batch in batches:
            context = prompt + _FIRST_STEPS + steps // 2
            seconds = partial(self._decode_seconds, batch, prompt, steps)
            yield self._fastest(batch, context, batch, seconds, self._choices(batch))

    def prefill(self, cases: Sequence[tuple[int, int]], repeats: int = 3) -> Iterator[PeerRow]:
        """(prompts, length): all prompts in one forward pass, the median of `repeats`."""
        for prompts, length in cases:
            seconds = partial(self._prefill_seconds, prompts, length, repeats)
            yield self._fastest(prompts, length, prompts * length, seconds, self._choices(None))

    def _choices(self, decoded: int | None) -> list[str]:
        """Implementations of the experts worth timing for a step of `decoded` tokens; None: a prefill."""
        if self._is_dense:
            return ["dense"]
        config = self.model.config
        default = config._experts_implementation
        gathers_little = decoded is not None and decoded * config.moe_k <= 2 * config.moe_num_experts
        return [default, "batched_mm"] if gathers_little and default != "batched_mm" else [default]

    def _fastest(self, batch: int, length: int, tokens: int, measure: Callable[[], float], choices: list[str]) -> PeerRow:
        default, best = choices[0], PeerRow(batch, length, None, None, choices[0])
        for choice in choices:
            if choice != "dense":
                self.model.set_experts_implementation(choice)
            self._free()
            try:
                seconds = measure()
            except self.torch.OutOfMemoryError:
                continue
            if best.ms is None or seconds * 1e3 < best.ms:
                best = PeerRow(batch, length, seconds * 1e3, tokens / seconds, choice)
        if default != "dense":
            self.model.set_experts_implementation(default)
        return best

    def _free(self) -> None:
        gc.collect()
        if xp.on_gpu:
            self.torch.cuda.empty_cache()

    def _prefill_seconds(self, prompts: int, length: int, repeats: int) -> float:
        ids = self._ids(prompts, length)
        self._forward(ids, self._cache(config=self.model.config))
        return statistics.median(timed(lambda: self._forward(ids, self._cache(config=self.model.config))) for _ in range(repeats))

    def _decode_seconds(self, batch: int, prompt: int, steps: int) -> float:
        """Per step."""
        cache = self._cache(config=self.model.config)
        ids = self._forward(self._ids(batch, prompt), cache)
        for _ in range(_FIRST_STEPS):
            ids = self._forward(ids, cache)
        settle()
        start = time.perf_counter()
        for _ in range(steps):
            ids = self._forward(ids, cache)
        settle()
        return (time.perf_counter() - start) / steps

    def _ids(self, batch: int, length: int) -> Any:
        return self.torch.randint(self.model.config.vocab_size, (batch, length), device=self.device)

    def _forward(self, ids: Any, cache: Any) -> Any:
        """The next token of every row, [batch, 1]."""
        with self.torch.inference_mode():
            output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **{self._cache_argument: cache})
            return output.logits[:, -1].argmax(-1, keepdim=True)
