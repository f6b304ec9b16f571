"""Token ids to text as they arrive; knows one answer, no stop strings and no finish.

A token is a run of bytes, and an answer is their concatenation: a space that the first token carries belongs to the answer, because the
answer continues the prompt. So nothing is decoded twice, and what was pushed so far never changes. Only a character's bytes that are not
all there yet wait.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from .tokenizer import Tokenizer


class Detokenizer:
    """For one answer. The concatenation of all pushes equals `tokenizer.decode` of all ids, however the ids are split."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int], final: bool = False) -> str:
        """The text that `ids` complete. `final`: nothing follows, so an unfinished character becomes U+FFFD."""
        tokenizer = self._tokenizer
        kept = (i for i in ids if not (self._skip_special and tokenizer.is_special(i)))
        return self._decoder.decode(b"".join(map(tokenizer.token_bytes, kept)), final)
