"""Writes random weights as sharded safetensors in a published layout; knows names and shapes only through `execution.weight_map`.

The same seed gives the same model in both flavours and in every sharding: each projection has a random stream of its own, seeded by its
name. Memory stays at one stored tensor plus a few megabytes.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..config import ModelConfig
from ..execution.safetensors_file import INDEX_FILE, SINGLE_FILE
from ..execution.weight_map import Kind, Source, published_naming, sources, weights

STANDARD_DEVIATION = 0.02
BIAS_STANDARD_DEVIATION = 0.005
"""Of the router's correction bias: 64 experts have a mean probability of 0.016, so that it changes some choices and not all."""
_ELEMENTS_AT_ONCE = 1 << 20
_BYTES = {"F32": 4, "BF16": 2}


@dataclass
class Shard:
    """The tensors of one file, in order."""

    name: str = ""
    sources: list[Source] = field(default_factory=list)
    nbytes: int = 0


class RandomWeights:
    """The tensors of one random checkpoint: how large they are, and their values."""

    def __init__(self, config: ModelConfig, flavour: str, dtype: str, seed: int) -> None:
        self.sources = list(sources(config, published_naming(config, flavour)))
        self.kinds = {weight.name: weight.kind for weight in weights(config)}
        self.dtype = {"bfloat16": "BF16", "float32": "F32"}[dtype]
        self.seed = seed
        self.projections: dict[tuple[str, str, int | None], list[Source]] = defaultdict(list)
        """What is fused in the -Paddle flavour, as the -PT flavour has it: q, k, v or gate, up."""
        for source in sources(config, published_naming(config, "pt")):
            self.projections[source.weight, source.part, source.expert].append(source)

    def nbytes(self, source: Source) -> int:
        return math.prod(source.shape) * _BYTES[self._stored_dtype(source)]

    def total_bytes(self) -> int:
        return sum(map(self.nbytes, self.sources))

    def shards(self, max_shard_bytes: int) -> list[Shard]:
        """Files of at most `max_shard_bytes` of data each; a larger tensor has a file of its own."""
        shards = [Shard()]
        for source in self.sources:
            nbytes = self.nbytes(source)
            if shards[-1].sources and shards[-1].nbytes + nbytes > max_shard_bytes:
                shards.append(Shard())
            shards[-1].sources.append(source)
            shards[-1].nbytes += nbytes
        for number, shard in enumerate(shards, 1):
            shard.name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        return shards

    def write(self, folder: Path, max_shard_bytes: int) -> list[str]:
        """Write all shards, and the index if there are several. Returns the files' names."""
        shards = self.shards(max_shard_bytes)
        with tqdm(total=self.total_bytes(), unit="B", unit_scale=True, desc="Writing weights", disable=None) as bar:
            for shard in shards:
                self._write_shard(folder / shard.name, shard, bar)
        names = [shard.name for shard in shards]
        if len(shards) > 1:
            weight_map = {source.tensor: shard.name for shard in shards for source in shard.sources}
            index = {"metadata": {"total_size": self.total_bytes()}, "weight_map": weight_map}
            (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            names.append(INDEX_FILE)
        return names

    def _write_shard(self, path: Path, shard: Shard, bar: tqdm) -> None:
        is_paddle = any(source.tensor.startswith("ernie.") for source in self.sources)
        header: dict[str, object] = {"__metadata__": {"format": "np" if is_paddle else "pt"}}
        offset = 0
        for source in shard.sources:
            end = offset + self.nbytes(source)
            header[source.tensor] = {"dtype": self._stored_dtype(source), "shape": source.shape, "data_offsets": [offset, end]}
            offset = end
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            for source in shard.sources:
                for chunk in self._chunks(source):
                    file.write(chunk.data)
                    bar.update(chunk.nbytes)

    def _chunks(self, source: Source) -> Iterator[np.ndarray]:
        """The tensor as it is stored, in contiguous pieces."""
        projections = self.projections[source.weight, source.part, source.expert]
        if not source.transposed:
            own = [p for p in projections if source.rows in (None, p.rows)]
            for projection in own:
                yield from self._rows(projection)
            return
        stored = np.empty(source.shape, _numpy_dtype(self._stored_dtype(source)))  # [in, out]
        column = 0
        for projection in projections:
            for rows in self._rows(projection):
                stored[:, column : column + len(rows)] = rows.T
                column += len(rows)
        yield stored

    def _rows(self, projection: Source) -> Iterator[np.ndarray]:
        """The projection's values as rows [out, in], some at a time."""
        dtype = self._stored_dtype(projection)
        shape = projection.shape[::-1] if projection.transposed else projection.shape
        shape = (1, *shape) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([self.seed, zlib.crc32(projection.tensor.encode())])))
        at_once = max(1, _ELEMENTS_AT_ONCE // shape[1])
        for start in range(0, shape[0], at_once):
            count = min(at_once, shape[0] - start)
            if "norm" in projection.weight and not projection.weight.endswith(".bias"):
                values = np.ones((count, shape[1]), np.float32)
            else:
                values = rng.standard_normal((count, shape[1]), dtype=np.float32)
                values *= BIAS_STANDARD_DEVIATION if projection.weight.endswith("router.bias") else STANDARD_DEVIATION
            yield values if dtype == "F32" else to_bfloat16(values)

    def _stored_dtype(self, source: Source) -> str:
        """Router and bias are float32 in every checkpoint; norms are stored as the linears are."""
        router = self.kinds[source.weight] is Kind.FLOAT32 and "router" in source.weight
        return "F32" if router else self.dtype


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16 bit patterns (uint16), rounded to nearest, ties to even. Finite values only."""
    bits = values.view(np.uint32)
    bits = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (bits >> np.uint32(16)).astype(np.uint16)


def _numpy_dtype(dtype: str) -> np.dtype:
    return np.dtype(np.float32 if dtype == "F32" else np.uint16)
