"""`HookedTransformer`: an InterpretableModel that is called as TransformerLens'
is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import mlx.core as mx

from ... import _core
from ...engine.native import NativeEngine
from ...errors import UnknownNameError, UsageError
from ...model import InterpretableModel
from .cache import BY_HEAD, HookCache, Slice, sliced
from .config import Config, config_of
from .factored_matrix import FactoredMatrix
from .hooks import HookPoint, Names
from .kept_hooks import Added, KeptHooksMixin
from .norms import Norm, norm_of
from .parts import Blocks, Ends, NormPart
from .run import Run, is_below, layer_number
from .tokens import TokensMixin
from .utils import lm_cross_entropy_loss

_INSTEAD = {
    "generate": "an InterpretableModel of the same path generates text: "
    "InterpretableModel(path).generate(prompt, max_tokens=20), its hooks as "
    "interventions=",
    "backward": "gradients are run_with_cache(..., incl_bwd=True, return_type=metric)",
    "state_dict": "parameters are model.parameters(), or tl_named_parameters()",
    "load_state_dict": "load a checkpoint by its path",
    "init_weights": "a model is not trained from nothing here: use mlx.nn",
}


class HookedTransformer(TokensMixin, KeptHooksMixin, InterpretableModel):
    """TransformerLens' model, native or wrapped: its names, arguments and
    defaults, mx.arrays in place of tensors. Everything that an InterpretableModel
    has is there too; what `trace` and the analyses take as text gets no BOS.

        model = HookedTransformer.from_pretrained("demo")
        logits, cache = model.run_with_cache("The Eiffel Tower is in")

    Args:
        model, tokenizer, ...: as InterpretableModel's.
        default_prepend_bos: whether texts get a BOS where a call does not say.
        fold_ln: whether weights that read through a norm (W_Q, W_in, W_U, ...)
            come with its gain, as TransformerLens folds them; the passes are
            the same. Nothing is centred but these.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *args,
        default_prepend_bos: bool = True,
        fold_ln: bool = False,
        **kwargs,
    ):
        super().__init__(model, tokenizer, *args, **kwargs)
        self._from[1].update(default_prepend_bos=default_prepend_bos, fold_ln=fold_ln)
        self._added: list[Added] = []
        self._points: dict[str, HookPoint] = {}
        self._weights_are = {"folded": fold_ln}
        self._cfg: Config | None = None
        self._prepend = default_prepend_bos

    @classmethod
    def from_pretrained(
        cls,
        model_name: str,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        *,
        fold_value_biases: bool = True,
        default_prepend_bos: bool = True,
        default_padding_side: str = "right",
        dtype: Any = None,
        device: Any = None,
        move_to_device: bool = True,
        tokenizer: Any = None,
        revision: str | None = None,
        **others,
    ) -> HookedTransformer:
        """A model by its path, its name on a hub, or "demo". What centres or
        refactors changes no probability, and is not done: logits are the
        checkpoint's. Raises UsageError for what cannot be."""
        others = {name for name, value in others.items() if value is not None}
        if unknown := others - {"n_devices"}:
            raise UsageError(
                f"from_pretrained: {', '.join(sorted(unknown))} cannot be chosen here; a "
                "branch or commit of a checkpoint is revision="
            )
        how: dict[str, Any] = {"revision": revision}
        if dtype is not None:
            dtype = getattr(mx, dtype) if isinstance(dtype, str) else dtype
            how = {"engine": NativeEngine(model_name, dtype, revision=revision)}
        return cls(
            model_name,
            tokenizer,
            default_prepend_bos=default_prepend_bos,
            fold_ln=fold_ln,
            **how,
        )

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str, **how) -> HookedTransformer:
        """With weights as in the checkpoint."""
        return cls.from_pretrained(model_name, **{"fold_ln": False, **how})

    boot_transformers = from_pretrained_no_processing  # TransformerBridge's

    def enable_compatibility_mode(self, fold_ln: bool = True, no_processing=False, **_):
        """TransformerBridge's: weights as HookedTransformer has them."""
        self._weights_are = {"folded": fold_ln and not no_processing}
        self._cfg = None

    @property
    def cfg(self) -> Config:
        """What the model is made of."""
        if self._cfg is None:
            self._cfg = config_of(self, self._weights_are["folded"])
            self._cfg.default_prepend_bos = self._prepend
        return self._cfg

    def __call__(
        self,
        input: Any,
        return_type: str | Callable | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        stop_at_layer: int | None = None,
        start_at_layer: int | None = None,
        padding_side: str | None = None,
    ) -> Any:
        """One pass with the hooks that were added.

        input: text, texts, ids [pos] or [batch, pos].
        return_type: "logits" [batch, pos, vocab], "loss" (mean cross entropy, or
            with `loss_per_token` [batch, pos - 1]), "both", None, or a function
            of the logits, whose value is returned. Backward hooks want one
            number: "loss" or a function.
        stop_at_layer: returns what that layer would read, [batch, pos, d_model];
            nothing from there on is computed.
        """
        if start_at_layer is not None:
            raise UsageError(
                "start_at_layer: a pass begins with tokens. Put the stream in place: "
                "model.trace(tokens, interventions={'layers.3.resid_pre': "
                "replace_with(resid)}); what it replaces is not computed"
            )
        run = Run(self, input, prepend_bos, stop_at_layer, return_type, loss_per_token)
        return run({}, True)[0]

    forward = __call__

    def loss_fn(
        self, logits: mx.array, tokens: mx.array, per_token: bool = False
    ) -> mx.array:
        """Cross entropy of each token given those before it."""
        return lm_cross_entropy_loss(logits, self._tokens(tokens), per_token)

    def run_with_cache(
        self,
        input: Any,
        names_filter: Names | None = None,
        *,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        pos_slice: Slice = None,
        incl_bwd: bool = False,
        device: Any = None,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **how,
    ) -> tuple[Any, HookCache | dict[str, mx.array]]:
        """A pass and the values at hook points.

        names_filter: hook points, as InterpretableModel's. None means all, but
            `hook_result` where `cfg.use_attn_result` is not set.
        pos_slice: positions to keep; their axis stays.
        incl_bwd: also the gradients of what is returned, as `<name>_grad`;
            return_type is "loss" or a function that gives one number.
        how: as for a call.

        Returns what a call returns, and the cache.
        """
        stop = how.get("stop_at_layer")
        sites, named = self._hooks_meant(names_filter)
        stop = layer_number(stop, len(self.layers)) if stop is not None else None
        if stop is not None:
            sites = {k: v for k, v in sites.items() if is_below(k, stop)}
        run = Run(self, input, **_call(how))
        out, values = run(sites, named, incl_bwd)
        if isinstance(pos_slice, int):
            pos_slice = [pos_slice]
        if pos_slice is not None:
            for name, value in values.items():
                axis = -3 if name.removesuffix("_grad").endswith(BY_HEAD) else -2
                values[name] = sliced(value, pos_slice, axis)
        cache = HookCache(values, self, inputs=run.tokens)
        if remove_batch_dim:
            cache.remove_batch_dim()
        if clear_contexts:
            self.clear_contexts()
        return out, cache if return_cache_object else cache.cache_dict

    def _in_full_cache(self, name: str) -> bool:
        return self.cfg.use_attn_result or super()._in_full_cache(name)

    def set_use_attn_result(self, use: bool) -> None:
        """Whether a cache of everything has `hook_result`."""
        self.cfg.use_attn_result = use

    def set_use_hook_mlp_in(self, use: bool) -> None:
        """`hook_mlp_in` is there either way, natively."""
        self.cfg.use_hook_mlp_in = use

    def set_use_split_qkv_input(self, use: bool) -> None:
        """Refused: heads do not read copies of their own."""
        if use:
            raise UsageError(
                "heads do not read copies of their own here: what one reads is changed "
                "by sweeps.path_patch(model, clean, corrupt, metric, receivers=['5.1.q'])"
            )

    set_use_attn_in = set_use_split_qkv_input

    @property
    def blocks(self) -> Blocks:
        """The layers, by TransformerLens' names of their parts."""
        return Blocks(self)

    @property
    def ln_final(self) -> NormPart:
        """The norm in front of the unembedding."""
        return NormPart(self, "ln_final")

    @property
    def embed(self) -> Ends:
        """W_E; a function of ids."""
        return Ends(self, "embed")

    @property
    def pos_embed(self) -> Ends:
        """W_pos."""
        return Ends(self, "pos_embed")

    @property
    def unembed(self) -> Ends:
        """W_U and b_U; a function of what the last norm gives."""
        return Ends(self, "unembed")

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head, [layer, head, d_model, d_model]."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of every head, [layer, head, d_model, d_model]."""
        return FactoredMatrix(self.W_Q, self.W_K.swapaxes(-1, -2))

    def all_head_labels(self) -> list[str]:
        """L0H0, L0H1, ..."""
        heads = range(self.cfg.n_heads)
        return [f"L{i}H{h}" for i in range(self.cfg.n_layers) for h in heads]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> mx.array:
        """What biases alone have written before a layer, [d_model]."""
        found = mx.zeros(self.cfg.d_model)
        for i in range(layer + mlp_input):
            found = found + self.weight("b_O", layer=i)
            if include_mlp_biases and i < layer:
                found = found + self.weight("b_out", layer=i)
        return found

    def tl_named_parameters(self) -> Iterator[tuple[str, mx.array]]:
        """Every weight that the model has by TransformerLens' name, layer by
        layer: `blocks.0.attn.W_Q`."""
        ends = {"E": "embed", "pos": "pos_embed", "U": "unembed"}
        for name in _core.weight_names:
            with suppress(UnknownNameError, UsageError):
                what = name.partition("_")[2]
                if what in ends:
                    yield f"{ends[what]}.{name}", getattr(self, name)
                    continue
                part = "attn" if what in "QKVO" else "mlp"
                for i in range(len(self.layers)):
                    value = self.weight(name, layer=i, **self._weights_are)
                    yield f"blocks.{i}.{part}.{name}", value

    def norm_of(self, name: str) -> Norm:
        """What the norm "ln_final" or "blocks.3.ln1" does."""
        return norm_of(self, name)

    def to(self, *_, **__) -> HookedTransformer:
        """Itself: MLX's arrays lie in memory that all devices see."""
        return self

    def _handle(self, **changes) -> HookedTransformer:
        own = dict(_added=list(self._added), _points={}, _cfg=None)
        return super()._handle(**{**own, **changes})

    @property
    def generate(self):
        """Not here, where other arguments and kept hooks would have to mean what
        they mean elsewhere. Raises UsageError, which says what to write."""
        return self.__getattr__("generate")

    def __getattr__(self, name: str):
        if name in _INSTEAD:
            raise UsageError(f"HookedTransformer.{name}: {_INSTEAD[name]}")
        return super().__getattr__(name)


def _call(how: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments as `Run` takes them. Raises UsageError."""
    known = dict(
        prepend_bos=None, stop_at_layer=None, return_type="logits", loss_per_token=False
    )
    if unknown := how.keys() - known.keys():
        raise UsageError(f"run_with_cache does not know {', '.join(sorted(unknown))}")
    given = {**known, **how}
    return {"per_token" if k == "loss_per_token" else k: v for k, v in given.items()}
