"""Text and tokens of an InterpretableModel."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..errors import UsageError


class TokenizerMixin:
    """The methods that need only `self.tokenizer`. Without one they raise
    UsageError, which is a ValueError."""

    tokenizer: Any

    def encode(self, text: str, parse_special: bool | None = None) -> list[int]:
        """Token ids of a text. `parse_special`: whether control tokens in it are
        what they are called, where the tokenizer is the checkpoint's own."""
        how = {} if parse_special is None else {"parse_special": parse_special}
        return list(self._need_tokenizer().encode(text, **how))

    def decode(self, tokens: list[int] | mx.array) -> str:
        """The text of token ids."""
        if isinstance(tokens, mx.array):
            tokens = tokens.tolist()
        return self._need_tokenizer().decode(tokens)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [self.encode(text) for text in texts]

    def token_to_str(self, token_id: int) -> str:
        """The text of one token id."""
        return self._need_tokenizer().decode([token_id])

    def to_str_tokens(
        self, input: str | list[str] | list[int] | mx.array, prepend_bos: bool = False
    ) -> list[str] | list[list[str]]:
        """The text of each token, of ids those of the first row if there are
        several; of several texts one list each.

        prepend_bos: put the tokenizer's `bos_token_id`, if it has one, in
            front of a text that does not begin with it.
        """
        tokenizer = self._need_tokenizer()
        if isinstance(input, (list, tuple)) and input and isinstance(input[0], str):
            return [self.to_str_tokens(text, prepend_bos) for text in input]
        if isinstance(input, str):
            ids = self._encoded(input, prepend_bos)
        else:
            ids = input.tolist() if isinstance(input, mx.array) else list(input)
            if ids and isinstance(ids[0], (list, tuple)):
                ids = ids[0]
        return [tokenizer.decode([token]) for token in ids]

    def _encoded(self, text: str, prepend_bos: bool) -> list[int]:
        """Ids, behind the tokenizer's `bos_token_id`, if it has one and that is
        asked for and does not stand there."""
        ids, bos = self.encode(text), getattr(self.tokenizer, "bos_token_id", None)
        missing = prepend_bos and bos is not None and ids[:1] != [bos]
        return [bos, *ids] if missing else ids

    @property
    def vocab_size(self) -> int | None:
        """Tokens in the tokenizer's vocabulary, None without a tokenizer."""
        for name in ("vocab_size", "n_words"):
            if hasattr(self.tokenizer, name):
                return getattr(self.tokenizer, name)
        return len(self.tokenizer) if hasattr(self.tokenizer, "__len__") else None

    def _need_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise UsageError(
                "There is no tokenizer: InterpretableModel(model, tokenizer)."
            )
        return self.tokenizer
