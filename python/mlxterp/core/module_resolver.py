"""Where a model keeps its embedding, its last norm and its unembedding."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import mlx.nn as nn


class ModuleResolver:
    """Finds the parts of a model that architectures name differently: the
    path given for one, else the first of its usual paths that exists. What was
    found is remembered until `clear_cache()`.

    Args:
        model: the module to look in.
        embedding_path, norm_path, lm_head_path: dotted paths that come first;
            one that does not exist is warned about.
    """

    EMBEDDING_PATHS = [
        "model.embed_tokens",
        "model.model.embed_tokens",
        "embed_tokens",
        "tok_embeddings",
        "wte",
        "model.wte",
        "model.model.wte",
        "embeddings.word_embeddings",
        "transformer.wte",
    ]
    NORM_PATHS = [
        "model.norm",
        "model.model.norm",
        "norm",
        "ln_f",
        "model.ln_f",
        "transformer.ln_f",
        "final_layer_norm",
    ]
    LM_HEAD_PATHS = [
        "lm_head",
        "model.lm_head",
        "model.model.lm_head",
        "output",
        "head",
    ]

    # What upstream does not know, behind what it does: names and where they
    # stand. The native engine's are the last.
    _PLACES = ("", "model.", "backbone.", "transformer.", "language_model.")
    _MORE_EMBEDDINGS = (
        "model.embed_tokens embed_in embeddings tok_embeddings embedding embed"
    )
    _MORE_NORMS = "model.norm final_layer_norm final_layernorm norm_f ln_final"
    _MORE_HEADS = "lm_head embed_out unembed"

    def __init__(
        self,
        model: nn.Module,
        embedding_path: str | None = None,
        norm_path: str | None = None,
        lm_head_path: str | None = None,
    ):
        self.model = model
        self._paths = {
            "embedding": (embedding_path, self.EMBEDDING_PATHS, self._MORE_EMBEDDINGS),
            "final_norm": (norm_path, self.NORM_PATHS, self._MORE_NORMS),
            "lm_head": (lm_head_path, self.LM_HEAD_PATHS, self._MORE_HEADS),
        }
        self.clear_cache()

    def is_usual(self) -> bool:
        """Whether no path was given for the unembedding, which may be another
        than the model's own."""
        return self._paths["lm_head"][0] is None

    def get_embedding_layer(self) -> nn.Module | None:
        """The token embedding, or None."""
        return self._find("embedding")[0]

    def get_embedding_path(self) -> str | None:
        """The path of the token embedding, or None."""
        return self._find("embedding")[1]

    def get_final_norm(self) -> nn.Module | None:
        """The norm in front of the unembedding, or None."""
        return self._find("final_norm")[0]

    def get_final_norm_path(self) -> str | None:
        """The path of that norm, or None."""
        return self._find("final_norm")[1]

    def get_lm_head(self) -> nn.Module | None:
        """The unembedding; the embedding where their weights are tied."""
        return self.get_output_projection()[0]

    def get_output_projection(self) -> tuple[nn.Module | None, str | None, bool]:
        """(module, path, tied): the unembedding, or the embedding whose
        weights it shares; (None, None, False) where there is neither."""
        head = self._find("lm_head")
        if head[0] is not None:
            return *head, False
        embedding = self._find("embedding")
        return *embedding, embedding[0] is not None

    def clear_cache(self) -> None:
        """Forgets what was found: call it after replacing a module."""
        self._found: dict[str, tuple] = {}

    def _find(self, what: str) -> tuple:
        if what not in self._found:
            self._found[what] = self._search(what, *self._paths[what])
        return self._found[what]

    def _search(self, what: str, own: str | None, usual: list, more: str) -> tuple:
        more = [place + name for name in more.split() for place in self._PLACES]
        for path in dict.fromkeys([*([] if own is None else [own]), *usual, *more]):
            module = self._resolve_path(path)
            if module is not None:
                return module, path
            if path == own:
                warnings.warn(
                    f"There is no '{own}' to be the {what}; looking in the usual "
                    "places instead.",
                    stacklevel=5,
                )
        return None, None

    def _resolve_path(self, path: str) -> Any | None:
        """What stands at a dotted path, where a number is an index."""
        found = self.model
        for part in path.split("."):
            try:
                found = found[int(part)] if part.isdigit() else getattr(found, part)
            except (AttributeError, IndexError, KeyError, TypeError):
                return None
        return found


def normalize_layer_key(key: str) -> str:
    """The key without upstream's leading `model.model.` or `model.`."""
    for lead in ("model.model.", "model."):
        if key.startswith(lead):
            return key[len(lead) :]
    return key


def find_layer_key_pattern(
    activations: Iterable[str], layer_idx: int, component: str | None = None
) -> str | None:
    """The key of a layer among `activations`, or of a component in it
    (`mlp`): `layers.N` or `h.N` behind any prefix; None where none fits."""
    tail = f".{component}" if component else ""
    names = [f"{lists}.{layer_idx}{tail}" for lists in ("layers", "h")]
    leads = ("model.model.", "model.", "")
    ends = tuple(f".{name}" for name in names)
    fitting = [key for key in activations if f".{key}".endswith(ends)]
    usual = [lead + name for name in names for lead in leads]
    return next(iter([*(it for it in usual if it in fitting), *fitting]), None)
