"""Sampling on a GPU at the real vocabulary: the reference's tokens, graph replays, counts and log-probabilities."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from ernie_kernels.reference import sampling as reference
from ernie_kernels.triton import sampling
from tests.kernels_triton import sampling_rows as rows_of

VOCAB = 103_424
TOLERANCE = 4e-6


def to_device(array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array)).cuda()


def to_host(tensor: Any) -> np.ndarray:
    return tensor.cpu().numpy()


@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_random_rows(num_rows: int) -> None:
    logits, rows = rows_of.random_rows(np.random.default_rng(num_rows), num_rows, VOCAB)
    assert rows_of.disagreements(logits, rows, rows_of.sample(logits, rows, to_device, to_host), TOLERANCE) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_p": 0.8},
        {"top_p": 0.95, "temperature": 0.3},
        {"top_k": 60_000},
        {"top_k": 60_000, "top_p": 0.97},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.01},
        {"min_p": 0.1},
        {},
    ],
    ids=str,
)
def test_flat_rows(parameters: dict[str, float]) -> None:
    logits = np.random.default_rng(7).standard_normal((16, VOCAB), np.float32)
    rows = rows_of.inputs(16, **parameters)
    assert rows_of.disagreements(logits, rows, rows_of.sample(logits, rows, to_device, to_host), TOLERANCE) == []


def test_penalties_bias_and_forbidden_ids() -> None:
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((64, VOCAB), np.float32) * 3
    likely = np.argsort(-logits, axis=1)[:, :2000]
    rows = rows_of.inputs(
        64,
        temperature=rng.choice([0, 0.6, 1], 64),
        top_p=rng.choice([0.8, 1], 64),
        repetition_penalty=rng.choice([1, 1.2], 64),
        frequency_penalty=rng.choice([0, 0.3], 64),
        presence_penalty=rng.choice([0, -0.5], 64),
        prompt_token_ids=tuple(rng.choice(line, 900) for line in likely),
        output_token_ids=tuple(rng.choice(line, 1500) for line in likely),
        logit_bias=tuple((line[:300], rng.standard_normal(300) * 4) if row % 3 == 0 else None for row, line in enumerate(likely)),
        forbidden_token_ids=tuple(line[::7] if row % 4 == 0 else None for row, line in enumerate(likely)),
    )
    counts = rows_of.count_tokens(rows, VOCAB, to_device)
    before = to_host(counts)
    token_ids = rows_of.sample(logits, rows, to_device, to_host, slots=np.arange(64), counts=counts)
    assert rows_of.disagreements(logits, rows, token_ids, TOLERANCE) == []
    for row, output in enumerate(rows.output_token_ids):
        assert output is not None
        np.testing.assert_array_equal(before[row] >> 1, np.bincount(output, minlength=VOCAB))
    before[np.arange(64), token_ids] += 2
    np.testing.assert_array_equal(to_host(counts), before)


def test_a_row_does_not_depend_on_the_batch() -> None:
    logits, rows = rows_of.random_rows(np.random.default_rng(5), 256, VOCAB)
    together = rows_of.sample(logits, rows, to_device, to_host)
    for row in range(0, 256, 32):
        alone = reference.SamplingInputs(**{name: getattr(rows, name)[row : row + 1] for name in rows.__dataclass_fields__})
        assert rows_of.sample(logits[row : row + 1], alone, to_device, to_host)[0] == together[row]


@pytest.mark.parametrize("truncated", [False, True])
def test_lanes_never_part_ways(truncated: bool) -> None:
    """25 million draws, 2.5 with top_p. When lanes had sums of their own (`launch.run`), one in two million never ended."""
    num_rows = 256
    rows = rows_of.inputs(num_rows, top_p=0.9) if truncated else rows_of.inputs(num_rows)
    packed = sampling.pack_rows(rows, np.full(num_rows, -1), np.full(num_rows, -1)) | {"edit_ids": np.zeros(1, np.int32)}
    packed |= {"edit_values": np.zeros(1, np.float32), "masks": np.zeros((1, VOCAB // 32), np.int32)}
    on_device = sampling.SamplingRows(**{name: to_device(array) for name, array in packed.items()})
    workspace = sampling.SamplingWorkspace(
        **{
            name: torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")
            for name, (shape, dtype) in sampling.workspace_shapes(num_rows, VOCAB).items()
        }
    )
    logits = torch.randn(num_rows, VOCAB, device="cuda")
    counts, chosen = torch.zeros(1, VOCAB, dtype=torch.int32, device="cuda"), torch.empty(num_rows, dtype=torch.int32, device="cuda")
    position = on_device.integers[:, sampling.INTEGER_COLUMNS.index("position")]

    def step() -> None:
        position.add_(1)
        sampling.sample(logits, on_device, counts, workspace, chosen, truncated=truncated, pdl=True)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    done = torch.cuda.Event()
    for _ in range(100_000 if not truncated else 10_000):
        graph.replay()
    done.record()
    for _ in range(600):
        if done.query():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the kernel has not ended after 60 s")
    assert int(chosen.min()) >= 0


def test_logprobs() -> None:
    logits = np.random.default_rng(4).standard_normal((8, VOCAB), np.float32) * 3
    logits[1] = np.round(logits[1])
    rows = rows_of.inputs(8, num_logprobs=(0, 20, None, 5, 20, 1, 20, 7))
    token_ids = np.arange(8, dtype=np.int32)
    values, ids = rows_of.top_logprobs(logits, rows, token_ids, to_device, to_host)
    for row, count in enumerate(rows.num_logprobs):
        if count is None:
            assert np.isnan(values[row]).all()
            continue
        chosen, expected_ids, expected = reference.top_logprobs(logits[row], row, count)
        assert ids[row, :count].tolist() == list(expected_ids)
        np.testing.assert_allclose(values[row, : 1 + count], [chosen, *expected], rtol=1e-5, atol=1e-5)
