"""Batches for training, made by processes of their own while the model learns; knows no model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .encoder import Encoder
from .mixture import SKILLS, training_cases
from .packing import packed

Arrays = dict[str, np.ndarray]


class _Endless(IterableDataset):
    def __init__(self, folder: Path, num_rows: int, seed: int) -> None:
        self._folder, self._num_rows, self._seed = folder, num_rows, seed

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        encoder = Encoder(self._folder)
        rng = random.Random(f"{self._seed} {worker.id if worker else 0}")
        examples = ((number, encoder.encode(case)) for number, case in training_cases(rng))
        for batch in packed(examples, self._num_rows):
            yield tensors(batch)


def training_batches(folder: Path, num_rows: int, workers: int, seed: int, pin: bool) -> Iterator[dict[str, torch.Tensor]]:
    """Endless; another `seed`, other cases."""
    dataset = _Endless(folder, num_rows, seed)
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None, pin_memory=pin))


def held_out_batches(encoder: Encoder, seed: int, cases_per_skill: int, num_rows: int) -> Iterator[dict[str, torch.Tensor]]:
    """Every skill's held-out cases, once."""
    cases = ((i, case) for i, skill in enumerate(SKILLS.values()) for case in skill.module.held_out_cases(seed, cases_per_skill))
    return (tensors(batch) for batch in packed(((i, encoder.encode(case)) for i, case in cases), num_rows))


def tensors(batch: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}
