"""TransformerLens' text and tokens: a BOS token in front unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ...errors import OutOfRangeError, UsageError


class TokensMixin:
    """The methods of `HookedTransformer` that take or give text. `prepend_bos`:
    None is `cfg.default_prepend_bos`. Of several texts the shorter ones are
    padded behind their end, which nothing before looks at."""

    def to_tokens(
        self,
        input: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> mx.array:
        """Token ids [batch, pos]. Raises UsageError."""
        if padding_side not in (None, "right"):
            raise UsageError(
                "padding stands behind a text here, where causal attention never "
                "looks; count from each text's own length instead of padding_side='left'"
            )
        rows = [self._ids(it, prepend_bos) for it in _texts(input)]
        if truncate and self.cfg.n_ctx:
            rows = [row[: self.cfg.n_ctx] for row in rows]
        longest, pad = max(map(len, rows)), self._padding()
        return mx.array([row + [pad] * (longest - len(row)) for row in rows])

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of an id or of [pos] ids; of [batch, pos] one each."""
        ids = tokens.tolist() if hasattr(tokens, "tolist") else tokens
        if isinstance(ids, int):
            ids = [ids]
        if ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row) for row in ids]
        return self.decode(list(ids))

    def to_str_tokens(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> list[str] | list[list[str]]:
        """The text of each token; of several texts one list each."""
        if isinstance(input, (list, tuple)) and input and isinstance(input[0], str):
            return [self.to_str_tokens(it, prepend_bos) for it in input]
        if isinstance(input, str):
            input = self._ids(input, prepend_bos)
        return super().to_str_tokens(mx.array(input))

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token. Raises UsageError."""
        ids = self._ids(string, False)
        if len(ids) != 1:
            shown = super().to_str_tokens(mx.array(ids))
            raise UsageError(f"{string!r} is not one token, but {shown}")
        return ids[0]

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one id."""
        return self.token_to_str(int(int_token))

    def get_token_position(
        self,
        single_token: str | int,
        input: Any,
        mode: str = "first",
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> int:
        """Where a token stands in a text or in ids, "first" or "last". Raises
        UsageError where it does not."""
        if mode not in ("first", "last"):
            raise UsageError(f"mode is 'first' or 'last', not {mode!r}")
        if isinstance(single_token, str):
            single_token = self.to_single_token(single_token)
        ids = self._tokens(input, prepend_bos)
        if ids.shape[0] != 1:
            raise UsageError(f"one prompt is looked at, not {ids.shape[0]}")
        ids, token = ids[0].tolist(), int(single_token)
        if token not in ids:
            raise UsageError(f"{self.to_string(token)!r} is not in the input")
        if mode == "first":
            return ids.index(token)
        return len(ids) - 1 - ids[::-1].index(token)

    def tokens_to_residual_directions(self, tokens: Any) -> mx.array:
        """What a token's logit reads of the normalized stream: the column of W_U
        with the last norm's gain. Of a text or an id [d_model], of ids [...]
        [..., d_model]."""
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        ids = mx.array(tokens)
        flat = ids.reshape(-1).tolist()
        if not all(isinstance(it, int) and 0 <= it < self.cfg.d_vocab for it in flat):
            last = self.cfg.d_vocab - 1
            raise OutOfRangeError(f"token ids go from 0 to {last}: {flat}")
        found = self.weight("W_U", tokens=flat, folded=True)
        return found.T.reshape(*ids.shape, -1)

    def _tokens(self, input: Any, prepend_bos: bool | None = None) -> mx.array:
        """Whatever a call takes, as ids [batch, pos]."""
        if isinstance(input, str):
            return self.to_tokens(input, prepend_bos)
        if isinstance(input, (list, tuple)) and input and isinstance(input[0], str):
            return self.to_tokens(input, prepend_bos)
        ids = input if isinstance(input, mx.array) else mx.array(input)
        return ids[None] if ids.ndim == 1 else ids

    def _ids(self, text: str, prepend_bos: bool | None) -> list[int]:
        ids, bos = self.encode(text), self._bos()
        begins = bos is not None and ids[:1] == [bos]
        if prepend_bos is None:
            prepend_bos = self.cfg.default_prepend_bos
        if prepend_bos and bos is None:
            raise UsageError(
                "the tokenizer has no token to put in front: prepend_bos=False, or "
                "HookedTransformer(..., default_prepend_bos=False)"
            )
        if begins and not prepend_bos:
            return ids[1:]
        return [bos, *ids] if prepend_bos and not begins else ids

    def _bos(self) -> int | None:
        bos = getattr(self._need_tokenizer(), "bos_token_id", None)
        return getattr(self.tokenizer, "eos_token_id", None) if bos is None else bos

    def _padding(self) -> int:
        for name in ("pad_token_id", "eos_token_id"):
            if (found := getattr(self.tokenizer, name, None)) is not None:
                return found
        return 0


def _texts(input: str | Sequence[str]) -> Sequence[str]:
    texts = [input] if isinstance(input, str) else input
    if not texts or not all(isinstance(it, str) for it in texts):
        raise UsageError("to_tokens takes a text or a list of texts, at least one")
    return texts
