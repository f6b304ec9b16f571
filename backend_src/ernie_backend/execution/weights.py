"""Loads a checkpoint into the model, shard by shard, and proves that it did so completely; knows layouts only through `weight_map`.

Everything that the headers can tell (names, shapes, dtypes, truncation) is checked before the first byte of data is read, so that a wrong
folder fails within a second. Peak memory is the model plus the largest stored tensor: what lies in the file as the model wants it is read
straight into its place, the rest (transposed or float16) goes through one temporary array.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ernie_kernels import ops, xp

from ..config import ModelConfig
from ..errors import CheckpointError
from .models import LanguageModel, make_model
from .safetensors_file import DTYPES, CheckpointFolder, SafetensorsFile, StoredTensor, abridged
from .weight_map import Kind, Source, Weight, detect_naming, head_source, is_ignored, sources, weights, with_head_as_stored

log = logging.getLogger(__name__)

_TILE = (512, 16)
"""Rows and columns that a transposing copy moves at once. [2560, 24576] bfloat16: 61 ms; (64, 64): 140 ms; in one go: 374 ms."""
_OF_QUANTISED = (".quant_weight", ".weight_scale", ".weight_scale_inv", ".activation_scale", ".qweight")
"""How FastDeploy, and others, call what stands beside or instead of a weight."""


def load_model(folder: str | Path, config: ModelConfig, progress: bool = True) -> LanguageModel:
    """The model of a folder in any layout of `weight_map`. Raises `CheckpointError` naming file, tensor, expected and found."""
    stored = CheckpointFolder(folder)
    config = with_head_as_stored(config, stored.tensors)
    loader = WeightLoader(stored, config)
    loader.read(progress)
    model = make_model(config, loader.take)
    loader.check_taken()
    return model


class WeightLoader:
    """Owns the weights between file and model. A weight is handed to the ops as soon as its last part has arrived."""

    def __init__(self, folder: CheckpointFolder, config: ModelConfig) -> None:
        self.folder = folder
        self.naming = detect_naming(folder.tensors)
        self.sources = {source.tensor: source for source in sources(config, self.naming)}
        self.tied_head = head_source(config, self.naming) if config.tie_word_embeddings else None
        self._check_headers()
        self.weights = {weight.name: weight for weight in weights(config)}
        self.parts_missing: dict[str, int] = defaultdict(int)
        self.precision: dict[str, str] = {}
        for source in self.sources.values():
            self.parts_missing[source.weight] += 1
            if folder.tensors[source.tensor].dtype != "BF16":
                self.precision[source.weight] = "float32"
        self.filling: dict[str, Any] = {}
        self.packed: dict[str, Any] = {}
        self.embedding: np.ndarray | None = None
        self.zeros: list[str] = []

    def read(self, progress: bool) -> None:
        """Read every shard once, in the order of its bytes."""
        self._tell_of_rounding()
        wanted = [tensor for tensor in self.folder.tensors.values() if tensor.name in self.sources]
        bar = tqdm(
            total=sum(t.nbytes for t in wanted), unit="B", unit_scale=True, desc="Loading weights", disable=None if progress else True
        )
        with bar:
            for number, file_name in enumerate(self.folder.file_names, 1):
                log.info("Loading weights: file %d of %d, %s", number, len(self.folder.file_names), file_name)
                with self.folder.open(file_name) as file:
                    for tensor in sorted((t for t in wanted if t.file == file_name), key=lambda t: t.start):
                        self._read_tensor(file, self.sources[tensor.name])
                        bar.update(tensor.nbytes)
        if self.zeros:
            log.warning(
                "%d matrices of the checkpoint hold nothing but zeros: %s. If it was downloaded, it may be incomplete.",
                len(self.zeros),
                abridged(self.zeros),
            )
        self._check_tied_head()

    def take(self, name: str) -> Any:
        """The weight of this name, once."""
        if name not in self.packed:
            raise CheckpointError(f"Weight {name} was not filled from the checkpoint.", param="model")
        return self.packed.pop(name)

    def check_taken(self) -> None:
        if self.packed or self.filling:
            raise CheckpointError(f"Weights without a use in the model: {abridged([*self.packed, *self.filling])}.", param="model")

    # checks, before any data is read ---------------------------------------------------------------------------------------------

    def _check_headers(self) -> None:
        found = self.folder.tensors
        quantised = next((name for name in found if name.endswith(_OF_QUANTISED) and name not in self.sources), None)
        if quantised is not None:
            where = f"{found[quantised].file}: tensor {quantised} belongs to quantised weights"
            raise CheckpointError(f"{where}, which are not supported yet. Use the bfloat16 checkpoint.", param="model")
        missing = [name for name in self.sources if name not in found]
        extra = [name for name in found if name not in self.sources and not is_ignored(name)]
        if self.tied_head is not None and self.tied_head.tensor in extra:
            extra.remove(self.tied_head.tensor)
            self._check_tensor(found[self.tied_head.tensor], self.tied_head)
        if missing or extra:
            lists = [f"{len(names)} {what}: {abridged(names)}" for names, what in ((missing, "missing"), (extra, "without a use")) if names]
            layout = f"read as the {self.naming.layout.value} layout of the model in config.json"
            raise CheckpointError(f"The tensors in {str(self.folder.folder)!r}, {layout}, do not fit: {'; '.join(lists)}.", param="model")
        for name, source in self.sources.items():
            self._check_tensor(found[name], source)
        ignored = sum(is_ignored(name) for name in found)
        if ignored:
            log.info("Ignoring %d tensors that answering does not need (multi-token prediction, unused parts of the tower)", ignored)

    @staticmethod
    def _check_tensor(tensor: StoredTensor, source: Source) -> None:
        where = f"{tensor.file}: tensor {tensor.name}"
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{where} has dtype {tensor.dtype}, expected one of {', '.join(DTYPES)}.", param="model")
        if tensor.shape != source.shape:
            swapped = " (as if it were stored in the other flavour's orientation)" if tensor.shape == source.shape[::-1] else ""
            raise CheckpointError(f"{where} has shape {list(tensor.shape)}, expected {list(source.shape)}{swapped}.", param="model")

    def _check_tied_head(self) -> None:
        """A head that is stored although the config ties it must say the same as the embedding."""
        embedding, self.embedding = self.embedding, None
        if self.tied_head is None or self.tied_head.tensor not in self.folder.tensors:
            return
        assert embedding is not None
        with self.folder.open(self.folder.tensors[self.tied_head.tensor].file) as file:
            head = file.read(self.tied_head.tensor)
        if self.tied_head.transposed:
            head = head.T
        for start in range(0, len(embedding), _TILE[0]):
            rows = slice(start, start + _TILE[0])
            if not np.array_equal(_as_float32(head[rows]), _as_float32(embedding[rows])):
                raise CheckpointError(
                    f"{file.path.name}: tensor {self.tied_head.tensor} differs from the embedding although tie_word_embeddings is true.",
                    param="model",
                )

    def _tell_of_rounding(self) -> None:
        """A line, if the device computes in fewer digits than matrices are stored in. A CPU keeps them as they are."""
        if ops.cache_dtype != "bfloat16":
            return
        matrices = [name for name, source in self.sources.items() if self.weights[source.weight].kind is not Kind.FLOAT32]
        stored = [self.folder.tensors[name].dtype for name in matrices]
        if found := [name for dtype, name in (("F16", "float16"), ("F32", "float32")) if dtype in stored]:
            log.warning(
                "%d of the checkpoint's %d matrices are stored as %s; a GPU computes in bfloat16 here, to which they are rounded: a weight "
                "changes by up to 0.4 %%, and answers may differ a little from the checkpoint's own. A CPU computes with them as stored.",
                len(stored) - stored.count("BF16"),
                len(stored),
                " and ".join(found),
            )

    # data --------------------------------------------------------------------------------------------------------------------------

    def _read_tensor(self, file: SafetensorsFile, source: Source) -> None:
        target = self._target(source)
        stored = file.tensors[source.tensor]
        if source.pairs_in_halves:
            copy_transformed(target, side_by_side(file.read(source.tensor), source.pairs_in_halves), source.transposed)
        elif not source.transposed and target.dtype == DTYPES[stored.dtype]:
            file.read_into(source.tensor, target)
        else:
            copy_transformed(target, file.read(source.tensor), source.transposed)
        if self.weights[source.weight].kind in (Kind.LINEAR, Kind.EXPERTS) and not (target[0].any() or target[-1].any() or target.any()):
            self.zeros.append(f"{source.tensor} (in {stored.file})")
        self.parts_missing[source.weight] -= 1
        if self.parts_missing[source.weight] == 0:
            weight = self.weights[source.weight]
            self.packed[weight.name] = self._pack(weight, self.filling.pop(weight.name))

    def _target(self, source: Source) -> np.ndarray:
        """The memory that this source fills; the weight's memory is taken when its first part arrives."""
        weight = self.weights[source.weight]
        if weight.name not in self.filling:
            precision = "float32" if weight.kind is Kind.FLOAT32 else self.precision.get(weight.name, "bfloat16")
            if weight.kind is Kind.EXPERTS:
                num_experts, intermediate, hidden = weight.shape
                self.filling[weight.name] = ops.ExpertWeights.empty(num_experts, intermediate, hidden, precision)
            else:
                self.filling[weight.name] = np.empty(weight.shape, np.float32 if precision == "float32" else DTYPES["BF16"])
        array = self.filling[weight.name]
        if source.part:
            array = getattr(array, source.part)
            array = array if source.expert is None else array[source.expert]
        if source.rows is not None:
            array = array[slice(*source.rows)]
        return array if source.transposed else array.reshape(source.shape)  # the router's bias is stored as one row of a matrix

    def _pack(self, weight: Weight, array: Any) -> Any:
        if weight.kind is Kind.LINEAR:
            return ops.pack_linear(array)
        if weight.kind is Kind.EMBEDDING:
            self.embedding = array if self.tied_head is not None else None
            return ops.pack_embedding(array)
        if weight.kind is Kind.EXPERTS:
            return ops.pack_experts(array.gate_up, array.down)
        return xp.from_numpy(array)


def side_by_side(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """[heads · d, in], each head as two halves x, y → x₀ y₀ x₁ y₁ … A key and its query move alike, so that their products stay."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def copy_transformed(target: np.ndarray, stored: np.ndarray, transposed: bool) -> None:
    """target = stored, or its transpose, in the target's precision (bfloat16 bits → float32, float16 → float32, or unchanged)."""
    source = stored.T if transposed else stored
    if target.ndim == 1:
        target, source = target[None], source[None]
    height, width = _TILE if transposed else (_TILE[0], target.shape[1])
    for row in range(0, target.shape[0], height):
        for column in range(0, target.shape[1], width):
            tile = np.s_[row : row + height, column : column + width]
            target[tile] = source[tile] if target.dtype == stored.dtype else _as_float32(source[tile])


def _as_float32(array: np.ndarray) -> np.ndarray:
    if array.dtype == DTYPES["BF16"]:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
