"""Reads safetensors files and folders of them without trusting a byte; knows no model.

A file is: 8 bytes, the header's length (little endian); the header, JSON `{name: {dtype, shape, data_offsets}}`; then the data. The
numpy reader of the safetensors package has no bfloat16, and torch is not a dependency, so the format is read here; bfloat16 comes out
as `np.uint16` bit patterns. Tensors are read, not mapped: what a shard's pages would hold is the model's memory a second time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError

DTYPES: dict[str, np.dtype] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
"""What can be read, and the numpy type it comes out as."""
_LFS_POINTER = b"version "
"""How a pointer of Git LFS begins; as a header's length it would be two exabytes."""
_MAX_HEADER_BYTES = 256 * 2**20
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset in the file, in bytes."""
    nbytes: int


class SafetensorsFile:
    """One open file. Opening reads and checks the header: every tensor lies inside the file and is as long as its shape says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle: BinaryIO = open(path, "rb")  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise CheckpointError(f"{path.name}: cannot be opened: {error.strerror or error}.", param="model") from None
        try:
            self.tensors = self._read_header()
        except BaseException:
            self._handle.close()
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.close()

    def _read_header(self) -> dict[str, StoredTensor]:
        size = self.path.stat().st_size
        prefix = self._handle.read(8)
        length = int.from_bytes(prefix, "little")
        if prefix == _LFS_POINTER:
            raise self._error("is not the file itself but a pointer of Git LFS to it. Run `git lfs pull` in the model folder")
        if len(prefix) < 8 or length > _MAX_HEADER_BYTES:
            raise self._error(
                f"is not a safetensors file (its header would have {length} bytes)" if len(prefix) == 8 else f"has only {size} bytes"
            )
        if 8 + length > size:
            raise self._error(f"is truncated: its header ends at byte {8 + length}, the file at byte {size}")
        try:
            header = json.loads(self._handle.read(length))
        except (ValueError, RecursionError) as error:
            raise self._error(f"has a corrupt header: {error}") from None
        if not isinstance(header, dict):
            raise self._error("has a corrupt header: not a JSON object")
        header.pop("__metadata__", None)
        return {name: self._entry(name, entry, 8 + length, size) for name, entry in header.items()}

    def _entry(self, name: str, entry: Any, data_start: int, file_size: int) -> StoredTensor:
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            valid = isinstance(dtype, str) and all(type(n) is int and n >= 0 for n in (*shape, start, end)) and start <= end
        except (TypeError, KeyError, ValueError):
            valid = False
        if not valid:
            raise self._error(f"has a corrupt header: entry of tensor {name}: {entry!r}")
        if data_start + end > file_size:
            raise self._error(f"is truncated: tensor {name} ends at byte {data_start + end}, the file at byte {file_size}")
        if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - start:
            expected = math.prod(shape) * DTYPES[dtype].itemsize
            raise self._error(
                f"has a corrupt header: tensor {name} of shape {list(shape)} in {dtype} needs {expected} bytes, found {end - start}"
            )
        return StoredTensor(name, self.path.name, dtype, shape, data_start + start, end - start)

    def read_into(self, name: str, target: np.ndarray) -> None:
        """Fill `target`, a contiguous array of the tensor's own dtype and shape, straight from the file."""
        tensor = self.tensors[name]
        assert target.flags.c_contiguous and target.dtype == DTYPES[tensor.dtype] and target.shape == tensor.shape
        self._handle.seek(tensor.start)
        if tensor.nbytes:
            count = self._handle.readinto(target.data.cast("B"))  # type: ignore[attr-defined]
            if count != tensor.nbytes:
                raise self._error(f"is truncated: tensor {name} has {tensor.nbytes} bytes, {count} could be read")

    def read(self, name: str) -> np.ndarray:
        """A new array of the tensor's own dtype and shape."""
        tensor = self.tensors[name]
        array = np.empty(tensor.shape, DTYPES[tensor.dtype])
        self.read_into(name, array)
        return array

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path.name} {what}.", param="model")


class CheckpointFolder:
    """All tensors of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        check_has_weights(self.folder)
        single = self.folder / SINGLE_FILE
        index = {} if single.is_file() or single.is_symlink() else self._read_index()
        self.file_names = sorted(set(index.values())) or [SINGLE_FILE]
        self.tensors: dict[str, StoredTensor] = {}
        for file_name in self.file_names:
            with self.open(file_name) as file:
                for name, tensor in file.tensors.items():
                    if name in self.tensors:
                        raise CheckpointError(f"Tensor {name} is in two files, {self.tensors[name].file} and {file_name}.", param="model")
                    self.tensors[name] = tensor
        absent = [name for name in index if name not in self.tensors]
        if absent:
            raise CheckpointError(
                f"{INDEX_FILE} names tensors that its shards do not hold: {abridged(f'{name} (in {index[name]})' for name in absent)}.",
                param="model",
            )

    def open(self, file_name: str) -> SafetensorsFile:
        path = self.folder / file_name
        if path.is_symlink() and not path.exists():
            raise CheckpointError(f"{file_name} is a link to {str(path.readlink())!r}, which does not exist.", param="model")
        if not path.is_file():
            raise CheckpointError(f"{INDEX_FILE} names the shard {file_name}, which is not in {str(self.folder)!r}.", param="model")
        return SafetensorsFile(path)

    def _read_index(self) -> dict[str, str]:
        path = self.folder / INDEX_FILE
        try:
            weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            valid = isinstance(weight_map, dict) and weight_map and all(isinstance(name, str) for name in weight_map.values())
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{INDEX_FILE} cannot be read: {type(error).__name__}: {error}.", param="model") from None
        if not valid:
            raise CheckpointError(f"{INDEX_FILE}: weight_map must be an object that maps tensors to files.", param="model")
        for name in weight_map.values():
            if Path(name).name != name:
                raise CheckpointError(f"{INDEX_FILE}: {name!r} is not a file name.", param="model")
        return weight_map


def check_has_weights(folder: Path) -> None:
    """Opens nothing. A link counts, wherever it leads: what is wrong with it is said when it is read. Raises `CheckpointError`."""
    if not any(path.is_file() or path.is_symlink() for path in (folder / SINGLE_FILE, folder / INDEX_FILE)):
        raise CheckpointError(
            f"The model folder {str(folder)!r} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE}. Give the folder of a whole "
            "checkpoint, or --load-format dummy (load_format in an engine configuration) for random weights, whose answers are nonsense.",
            param="model",
        )


def abridged(names: Iterator[str] | list[str], most: int = 8) -> str:
    """The names, or the first few and how many more."""
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"
