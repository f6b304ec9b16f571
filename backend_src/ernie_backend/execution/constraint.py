"""Grammars over token ids: compiles them off the engine's thread and follows one sequence each; knows no tensors and no request.

A mask has one bit for each id: bit i % 32 of word i // 32 says whether the id may come next.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask

from ..errors import ErnieError, InvalidRequestError
from ..protocol import GRAMMAR_LIMITS, SamplingParams

log = logging.getLogger(__name__)

COMPILED_GRAMMARS = 16
"""The last ones are kept. One takes some 10 KB, a schema of 100,000 characters a few MB, the worst that preprocess lets pass some 50 MB."""
COMPILING_THREADS = 2


def mask_words(vocab_size: int) -> int:
    return -(-vocab_size // 32)


class Vocabulary:
    """What grammars must know of a tokenizer; what llguidance makes of it takes 0.3 s and 80 MB for 103,424 tokens."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        special_ids: frozenset[int],
        end_ids: Sequence[int],
        vocab_size: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        """`vocab_size` may exceed the number of tokens, as the model's rows may; `end_ids` end an answer once its grammar allows it."""
        self.eos_token_id = end_ids[0]
        self.bos_token_id = None
        self.tokens = list(token_bytes)
        self.special_token_ids = sorted(special_ids)
        self.vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._encode = encode
        self._lock = threading.Lock()
        self._made: LLTokenizer | None = None

    def __call__(self, text: bytes | str) -> list[int]:
        """As llguidance asks for the tokens of a text."""
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    def llguidance(self) -> LLTokenizer:
        with self._lock:
            if self._made is None:
                wrapper = TokenizerWrapper(self)
                slices = LLTokenizer.json_slices()
                self._made = LLTokenizer(wrapper, n_vocab=self.vocab_size, eos_token=self._end_ids, slices=slices)
            return self._made


NOT_COMPILED = (
    "The format that the answer must follow cannot be compiled for this model: it is too large, or names tokens that the model does not "
    "have."
)
"""What preprocess has tried out knows no tokens."""


class GrammarCompiler:
    """Compiles on threads of its own, for any thread; `close` waits for what is under way."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._pool = ThreadPoolExecutor(COMPILING_THREADS, thread_name_prefix="ernie-grammars")
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._pool.submit(vocabulary.llguidance)  # before anybody waits for it, and while no step could be held up

    def compile(
        self, grammar: str, place: Callable[[LLMatcher], None], refuse: Callable[[ErnieError], None], is_wanted: Callable[[], bool]
    ) -> None:
        """Returns at once; then one of the two is called on another thread, if the grammar is still wanted when its turn comes."""
        self._pool.submit(self._compile, grammar, place, refuse, is_wanted)

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _compile(
        self, grammar: str, place: Callable[[LLMatcher], None], refuse: Callable[[ErnieError], None], is_wanted: Callable[[], bool]
    ) -> None:
        if not is_wanted():
            return
        try:
            matcher = self._matcher(grammar)
        except Exception:
            log.exception("a grammar could not be compiled")
            refuse(InvalidRequestError(NOT_COMPILED))
        else:
            place(matcher)

    def _matcher(self, grammar: str) -> LLMatcher:
        with self._lock:
            matcher = self._compiled.pop(grammar, None)
        if matcher is None:
            matcher = LLMatcher(self._vocabulary.llguidance(), grammar, log_level=0, limits=LLParserLimits(**GRAMMAR_LIMITS))
            if matcher.is_error():
                raise ValueError(matcher.get_error())
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > COMPILED_GRAMMARS:
                self._compiled.popitem(last=False)
        return matcher


class GrammarTooComplexError(Exception):
    """The grammar cannot be followed within its limits; of one sequence."""


class Constraint:
    """One sequence's place in its grammar. During the thought, if there is one, everything is allowed but to end the answer."""

    def __init__(self, matcher: Any, sampling: SamplingParams, vocab_size: int) -> None:
        self._matcher = matcher.deep_copy()
        self._thought_end_id = sampling.thought_end_id
        self.in_thought = sampling.thought_end_id is not None
        self._mask = np.zeros((1, mask_words(vocab_size)), np.int32)
        self._is_filled = False

    def accept(self, token_id: int) -> None:
        """The token was chosen. One that ends the answer changes nothing."""
        if self.in_thought:
            self.in_thought = token_id != self._thought_end_id
            return
        self._is_filled = False
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)

    def close_thought(self) -> None:
        """It was ended from outside."""
        self.in_thought = False

    def mask(self) -> np.ndarray | None:
        """[mask_words] int32 of what may come next; None: everything. Raises `GrammarTooComplexError`."""
        if self.in_thought:
            return None
        if not self._is_filled:
            fill_next_token_bitmask(self._matcher, self._mask)  # once stopped, only the ends are left
            if self._matcher.is_error():
                raise GrammarTooComplexError(self._matcher.get_error())
            self._is_filled = True
        return self._mask[0]
