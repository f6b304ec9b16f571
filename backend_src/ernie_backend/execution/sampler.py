"""Turns the sampling state of a step's sequences into `ops.SamplingInputs` and the result into tokens; knows no model.

A sequence that cannot be sampled (its own logits are not finite, or one of its ids is outside the vocabulary) fails alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from ernie_kernels import ops
from ernie_kernels.xp import Tensor

from ..core.outputs import GRAMMAR_TOO_COMPLEX, ModelRunnerOutput
from ..protocol import TokenLogprobs
from .constraint import GrammarTooComplexError
from .sequence_state import SequenceState


def sample(logits: Tensor, states: Sequence[SequenceState]) -> ModelRunnerOutput:
    """One token for each sequence, row r of logits [R, vocab] being states[r]'s; the tokens are appended to the states' ids."""
    try:
        result = ops.sample(logits, sampling_inputs(states))
    except Exception as error:  # whatever it is, it must end one sequence and not all
        if len(states) == 1:
            text = GRAMMAR_TOO_COMPLEX if isinstance(error, GrammarTooComplexError) else f"{type(error).__name__}: {error}"
            return ModelRunnerOutput({}, {states[0].sequence_id: text})
        alone = [sample(logits[row : row + 1], [state]) for row, state in enumerate(states)]
        return ModelRunnerOutput(*({k: v for out in alone for k, v in getattr(out, f.name).items()} for f in fields(ModelRunnerOutput)))
    sampled: dict[int, int] = {}
    logprobs: dict[int, TokenLogprobs] = {}
    for row, (state, token_id) in enumerate(zip(states, result.token_ids.tolist(), strict=True)):
        if row in result.failed:
            continue
        found = result.logprobs[row]
        sampled[state.sequence_id] = token_id
        if found is not None:
            logprobs[state.sequence_id] = TokenLogprobs(*found)
        state.token_ids.append(token_id)
        state.note(token_id)
    return ModelRunnerOutput(sampled, {states[row].sequence_id: text for row, text in result.failed.items()}, logprobs)


def sampling_inputs(states: Sequence[SequenceState], *, with_masks: bool = True) -> ops.SamplingInputs:
    """The sequences' parameters side by side; what only penalties read is filled in only where there are any. `with_masks`: on a GPU they
    take another way."""
    params = [state.sampling for state in states]
    return ops.SamplingInputs(
        temperature=np.array([p.temperature for p in params], np.float64),
        top_k=np.array([p.top_k for p in params], np.int64),
        top_p=np.array([p.top_p for p in params], np.float64),
        min_p=np.array([p.min_p for p in params], np.float64),
        repetition_penalty=np.array([p.repetition_penalty for p in params], np.float64),
        frequency_penalty=np.array([p.frequency_penalty for p in params], np.float64),
        presence_penalty=np.array([p.presence_penalty for p in params], np.float64),
        seed=np.array([state.seed for state in states], np.uint64),
        position=np.array([state.num_output_tokens for state in states], np.int64),
        prompt_token_ids=tuple(state.prompt_array for state in states),
        output_token_ids=tuple(state.output_array() if state.penalised else None for state in states),
        logit_bias=tuple(state.logit_bias for state in states),
        forbidden_token_ids=tuple(state.forbidden_token_ids() for state in states),
        allowed_masks=tuple(state.allowed_mask() if with_masks else None for state in states),
        num_logprobs=tuple(p.logprobs for p in params),
    )
