"""Times images: the encoder alone, and requests with an image each through the real scheduler and runner; prints nothing.

An image's floor is what its products cost: per patch and block 2 · (4 · hidden² + 2 · hidden · intermediate) operations and attention to
all patches, then the connector's linears per token. A request's floor adds the prompt, whose tokens of the image meet the narrower vision
experts, and its share of the decode steps.

What the language model sees in an answer is noise of an embedding's size, made once the image is encoded. Behind what an encoder of
random weights makes, nearly the same row for every patch of every image, all sequences would choose the same experts: a decode step of 16
then reads a third of what it should (4.6 instead of 13.1 ms), in some runs and not in others, and the ratio to the floor exceeds 1.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ernie_kernels import xp
from ernie_kernels.xp import Tensor

from ..config import ModelConfig
from ..core.engine_core import EngineCore
from ..errors import EngineError
from ..execution.model_runner import ModelRunner
from ..execution.models.vision_language import VisionLanguageModel
from ..execution.random_model import STANDARD_DEVIATION
from ..model_config import MERGE_SIZE
from ..protocol import GenerateRequest, MediaItem, MediaKind
from .engine_bench import EngineBench
from .roofline import Ceilings, decode_floor_seconds, prefill_floor_seconds
from .timing import timed

_TEXT_TOKENS = 32
"""Beside the image in every prompt."""
_REPEATS = 15


@dataclass(frozen=True)
class ImageRow:
    width: int
    height: int
    """In pixels, as asked."""
    patches: int
    tokens: int
    encode_ms: float
    encode_floor_ms: float
    encode_ratio: float
    """Floor over measured; 1 is perfect."""
    requests: int
    output: int
    """Tokens of every answer."""
    seconds: float
    """From the first request to the last token, the median of three; every image is another one."""
    floor_seconds: float
    ratio: float


class ImageBench:
    """Uses an `EngineBench`'s model, which must see."""

    def __init__(self, bench: EngineBench) -> None:
        assert isinstance(bench.model, VisionLanguageModel) and bench.config.vision is not None
        self.bench = bench
        self.model: VisionLanguageModel = bench.model
        self.vision = bench.config.vision

    def measure(self, sizes: Sequence[tuple[int, int]], requests: int, output: int, max_num_batched_tokens: int) -> Iterator[ImageRow]:
        """(width, height) of each row's images, `requests` at once, answered with `output` tokens."""
        for width, height in sizes:
            item = self._item(width, height)
            encode = self._encode_seconds(item)
            encode_floor = encode_floor_seconds(self.bench.config, self.bench.ceilings, item.grid)
            length = item.num_tokens + _TEXT_TOKENS
            core = self.bench.core(requests, length + output + 8, (requests,), max_num_batched_tokens)
            assert isinstance(core.runner, ModelRunner) and core.runner.media is not None
            core.runner.media.encode = self._encode_to_noise
            self._answer(core, width, height, requests, 2)  # compiles what this size needs
            answer = partial(self._answer, core, width, height, requests, output)
            seconds = statistics.median(timed(answer) for _ in range(3 if xp.on_gpu else 1))
            floor = requests * encode_floor + self._text_floor_seconds(item.num_tokens, requests, output)
            yield ImageRow(
                width,
                height,
                item.grid[1] * item.grid[2],
                item.num_tokens,
                encode * 1e3,
                encode_floor * 1e3,
                encode_floor / encode,
                requests,
                output,
                seconds,
                floor,
                floor / seconds,
            )

    def profile(self, width: int, height: int) -> list[tuple[str, int, float]]:
        """(kernel, launches, µs) of encoding one image, the longest first."""
        item = self._item(width, height)
        self.model.encode(item)
        durations: dict[str, list[float]] = defaultdict(list)
        for name, start, end in xp.profile_kernels(lambda: self.model.encode(item)):
            durations[name].append(end - start)
        return sorted(((name, len(each), sum(each)) for name, each in durations.items()), key=lambda row: -row[2])

    def _encode_seconds(self, item: MediaItem) -> float:
        for _ in range(3):
            self.model.encode(item)
        return statistics.median(timed(lambda: self.model.encode(item)) for _ in range(_REPEATS if xp.on_gpu else 1))

    def _encode_to_noise(self, item: MediaItem) -> Tensor:
        return xp.random_normal(self.model.encode(item).shape, STANDARD_DEVIATION, "bfloat16" if xp.on_gpu else "float32")

    def _item(self, width: int, height: int) -> MediaItem:
        """Noise of this size, its sides rounded to whole tokens."""
        side = self.vision.patch_size * MERGE_SIZE
        rows, columns = (max(1, round(length / side)) * MERGE_SIZE for length in (height, width))
        pixels = os.urandom(rows * columns * self.vision.patch_width)
        return MediaItem(MediaKind.IMAGE, pixels, (1, rows, columns), 1, rows * columns // MERGE_SIZE**2, os.urandom(16))

    def _answer(self, core: EngineCore, width: int, height: int, requests: int, output: int) -> None:
        for _ in range(requests):
            item = self._item(width, height)
            request: GenerateRequest = self.bench.request(item.num_tokens + _TEXT_TOKENS, output)
            core.add(replace(request, media=(item,), sampling=replace(request.sampling, max_tokens=output)))
        while core.has_work:
            for event in core.step().events:
                if event.error is not None:
                    raise EngineError("A step with images failed; the log above says why.")

    def _text_floor_seconds(self, image_tokens: int, requests: int, output: int) -> float:
        config, ceilings = self.bench.config, self.bench.ceilings
        spared = 0
        if config.vision_moe_intermediate_size:  # of the experts that a token of the image chooses; shared ones serve it, too
            narrower = config.moe_intermediate_size - config.vision_moe_intermediate_size
            spared = 2 * 3 * config.hidden_size * narrower * config.experts_per_token * len(config.sparse_layers) * image_tokens
        prompts = prefill_floor_seconds(config, ceilings, requests, image_tokens + _TEXT_TOKENS) - requests * spared / ceilings.matmul
        decode = decode_floor_seconds(config, ceilings, requests, image_tokens + _TEXT_TOKENS + output // 2)
        return prompts + (output - 1) * decode


def encode_floor_seconds(config: ModelConfig, ceilings: Ceilings, grid: tuple[int, int, int]) -> float:
    """Of tower and connector for one image."""
    vision = config.vision
    assert vision is not None
    _, height, width = grid
    hidden, patches = vision.hidden_size, height * width
    block = 2 * (4 * hidden**2 + 2 * hidden * vision.intermediate_size) + 4 * height * width * hidden
    merged = hidden * MERGE_SIZE**2
    last = merged * config.hidden_size
    # per token: PaddleOCR-VL's two linears, or four and the last one (a picture is paired with itself)
    connector = merged**2 + last if config.architecture == "ocr" else (2 + MERGE_SIZE + 1) * merged**2 + last
    tokens = patches // MERGE_SIZE**2
    return (patches * (2 * vision.patch_width * hidden + vision.num_layers * block) + tokens * 2 * connector) / ceilings.matmul
