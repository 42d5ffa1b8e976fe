"""What `run_with_cache` gives: values by hook name, and TransformerLens' ways of
taking the residual stream apart."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import mlx.core as mx

from ...core import ActivationCache
from ...errors import OutOfRangeError, UnknownNameError, UsageError
from .act_names import get_act_name

#: Of positions: None for all, a number, `slice`'s arguments, or a list.
Slice = int | slice | tuple | list | None

#: Of these the axis before the last two is the position.
BY_HEAD = tuple(f"hook_{it}" for it in "q k v rot_q rot_k z result".split())


def sliced(x: mx.array, by: Slice, axis: int) -> mx.array:
    """A part of an axis counted from the end; a number takes the axis away."""
    if by is None:
        return x
    by = slice(*by) if isinstance(by, tuple) else by
    by = mx.array(by) if isinstance(by, list) else by
    return x[(..., by, *[slice(None)] * (-axis - 1))]


class HookCache(ActivationCache):
    """Values by hook name: `cache["blocks.3.hook_resid_post"]`, shorter
    `cache["resid_post", 3]` or `cache["attn", 3]`, the layer counted from the
    end if negative.

    Components of the residual stream come as [component, batch, pos, d_model],
    batch and pos as the cache has them; of `layer` None or -1 all up to the
    unembedding, else what layer `layer` reads. `pos_slice` takes positions:
    a number takes the axis away. With `return_labels` their names too.

    Attributes:
        inputs: What the pass ran on.
        model: What ran; None in a copy that pickle made, to be set where a
            method needs it.
        has_batch_dim: Whether the first axis of each value is the batch.
    """

    def __init__(
        self,
        cache_dict: dict[str, mx.array],
        model: Any = None,
        has_batch_dim: bool = True,
        inputs: Any = None,
    ):
        super().__init__(cache_dict)
        self.model, self.has_batch_dim, self.inputs = model, has_batch_dim, inputs
        self._n_layers = len(model.layers) if model is not None else None

    def __getstate__(self):
        return {**self.__dict__, "model": None}

    def __deepcopy__(self, memo) -> HookCache:
        other = HookCache(dict(self.activations), self.model, self.has_batch_dim)
        other.inputs, other._n_layers = self.inputs, self._n_layers
        return other

    @property
    def cache_dict(self) -> dict[str, mx.array]:
        """The values by their whole names."""
        return self.activations

    def __getitem__(self, key: str | tuple) -> mx.array:
        found = self.activations
        if isinstance(key, str) and key in found:
            return found[key]
        name = self._long(*([key] if isinstance(key, str) else key))
        if name not in found:
            raise UnknownNameError(f"the cache has no {key!r}; it has {', '.join(found)}")
        return found[name]

    def __contains__(self, key) -> bool:
        try:
            return self[key] is not None
        except (LookupError, TypeError, ValueError):  # no such name, layer or form
            return False

    def _long(self, short: str, layer: int | None = None, part: str | None = None) -> str:
        """The whole name of (short, layer, part)."""
        if layer is None:
            return get_act_name(short, None, part)
        count = self._n_layers
        if count is not None and not -count <= layer < count:
            raise OutOfRangeError(f"there are {count} layers, no layer {layer}")
        return get_act_name(short, layer % count if count else layer, part)

    def remove_batch_dim(self) -> HookCache:
        """This cache of one prompt, its values without their first axis."""
        if not self.has_batch_dim:
            return self
        several = {it.shape[0] for it in self.activations.values()} - {1}
        if several:
            raise UsageError(
                f"remove_batch_dim: there are {max(several)} prompts here, not one"
            )
        for name, value in self.activations.items():
            self.activations[name] = value[0]
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: Slice) -> HookCache:
        """Another cache of some of the prompts; a number leaves no batch axis."""
        if not self.has_batch_dim:
            raise UsageError("this cache has no batch axis: its prompt is one")
        values = {k: sliced(v, batch_slice, -v.ndim) for k, v in self.items()}
        return HookCache(values, self.model, not isinstance(batch_slice, int))

    def stack_activation(
        self, activation_name: str, layer: int = -1, sublayer_type: str | None = None
    ) -> mx.array:
        """One activation of every layer before `layer`, [layer, ...]."""
        upto = self._upto(layer)
        return mx.stack([self[activation_name, i, sublayer_type] for i in range(upto)])

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Slice = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ):
        """The residual stream before each layer, with `incl_mid` also between
        its parts, and behind the last."""
        upto, last = self._upto(layer), self._n_layers
        parts, labels = [], []
        for i in range(upto + 1):
            if i == last:
                parts.append(self["resid_post", last - 1])
                labels.append("final_post")
                continue
            parts.append(self["resid_pre", i])
            labels.append(f"{i}_pre")
            if (incl_mid and i < upto) or (mlp_input and i == upto):
                parts.append(self["resid_mid", i])
                labels.append(f"{i}_mid")
        stack = mx.stack([sliced(it, pos_slice, -2) for it in parts])
        return self._done(
            stack, labels, upto, apply_ln, pos_slice, mlp_input, return_labels
        )

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Slice = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ):
        """What the embedding and each layer's attention and MLP add to the
        stream that enters a layer, or the unembedding; their sum is it. `mode`:
        "all", "attn" or "mlp"."""
        upto = self._upto(layer)
        names: list[tuple[str, tuple | str]] = []
        if incl_embeds:
            every = ("embed", "pos_embed")
            names += [(it, it) for it in every if f"hook_{it}" in self.activations]
        outs = [it for it in ("attn", "mlp") if mode in ("all", it)]
        names += [
            (f"{i}_{it}_out", (f"{it}_out", i))
            for i in range(upto)
            for it in outs
            if self._adds(i, it)
        ]
        if mlp_input and mode != "mlp":
            names.append((f"{upto}_attn_out", ("attn_out", upto)))
        if not names:
            raise UsageError(f"decompose_resid: mode {mode!r} leaves nothing")
        stack = mx.stack([sliced(self[key], pos_slice, -2) for _, key in names])
        labels = [label for label, _ in names]
        return self._done(
            stack, labels, upto, apply_ln, pos_slice, mlp_input, return_labels
        )

    def _adds(self, layer: int, part: str) -> bool:
        """Whether a layer has that part: one may be a mixer alone."""
        if self.model is None:
            return True
        with suppress(UnknownNameError):
            return bool(self.model.engine.resolve(f"layers.{layer}.{part}_out"))
        return False

    def compute_head_results(self) -> None:
        """`result` of every layer, z through each head's part of W_O, where the
        cache has it not."""
        for i in range(self._upto(None)):
            name = get_act_name("result", i)
            if name not in self.activations:
                z = self["z", i][..., None, :]
                w = self._model().weight("W_O", layer=i)
                self.activations[name] = (z @ w)[..., 0, :]

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Slice = None,
        apply_ln: bool = False,
    ):
        """What each head of the layers before `layer` gives, [layer * head, ...];
        with `incl_remainder` also the rest of the stream."""
        self.compute_head_results()
        upto = self._upto(layer)
        each = [sliced(self["result", i], pos_slice, -3) for i in range(upto)]
        labels = [f"L{i}H{h}" for i, it in enumerate(each) for h in range(it.shape[-2])]
        stacks = [mx.moveaxis(it, -2, 0) for it in each]
        return self._stacked(
            stacks, labels, upto, return_labels, incl_remainder, pos_slice, apply_ln
        )

    def get_neuron_results(
        self, layer: int, neuron_slice: Slice = None, pos_slice: Slice = None
    ) -> mx.array:
        """What each neuron of a layer writes, [..., neuron, d_model]."""
        post = sliced(sliced(self["post", layer], pos_slice, -2), neuron_slice, -1)
        w_out = sliced(self._model().weight("W_out", layer=layer), neuron_slice, -2)
        return post[..., None] * w_out

    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Slice = None,
        neuron_slice: Slice = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
    ):
        """The same of every neuron of the layers before `layer`; of large
        models choose few."""
        upto, stacks, labels = self._upto(layer), [], []
        keep = neuron_slice if not isinstance(neuron_slice, int) else [neuron_slice]
        for i in range(upto):
            found = mx.moveaxis(self.get_neuron_results(i, keep, pos_slice), -2, 0)
            numbers = mx.arange(self["post", i].shape[-1])
            labels += [f"L{i}N{n}" for n in sliced(numbers, keep, -1).tolist()]
            stacks.append(found)
        return self._stacked(
            stacks, labels, upto, return_labels, incl_remainder, pos_slice, apply_ln
        )

    def apply_ln_to_stack(
        self,
        residual_stack: mx.array,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Slice = None,
        batch_slice: Slice = None,
        has_batch_dim: bool = True,
    ) -> mx.array:
        """Components as the norm in front of a layer, or of the unembedding,
        sees them: less their mean where it takes that away, over its scale in
        this pass. They stay before its gain, which is in
        `tokens_to_residual_directions` and in folded weights. Positions are
        those that `pos_slice` has taken already."""
        upto, name = self._upto(layer), "ln_final"
        if upto < self._n_layers:
            name = f"blocks.{upto}.ln{2 if mlp_input else 1}"
        if has_batch_dim:
            residual_stack = sliced(residual_stack, batch_slice, 1 - residual_stack.ndim)
        centres, scale = self._scale(name, upto, mlp_input)
        if centres:
            residual_stack -= residual_stack.mean(axis=-1, keepdims=True)
        scale = sliced(scale, pos_slice, -2)
        if self.has_batch_dim:
            scale = sliced(scale, batch_slice, -scale.ndim)
        return residual_stack / scale

    def logit_attrs(
        self,
        residual_stack: mx.array,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Slice = None,
        batch_slice: Slice = None,
        has_batch_dim: bool = True,
    ) -> mx.array:
        """What each component adds to the logit of `tokens` (text, an id, or ids
        of each prompt), or to its difference from that of `incorrect_tokens`."""
        model = self._model()
        by = model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            other = model.tokens_to_residual_directions(incorrect_tokens)
            if other.shape != by.shape:
                raise UsageError(
                    f"tokens of shape {by.shape[:-1]} and incorrect_tokens of "
                    f"{other.shape[:-1]}: give as many of each"
                )
            by = by - other
        seen = self.apply_ln_to_stack(
            residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim
        )
        return (seen * by).sum(axis=-1)

    def _stacked(self, stacks, labels, upto, return_labels, rest, pos_slice, apply_ln):
        stream = ("resid_post", upto - 1) if upto else ("resid_pre", 0)
        whole = sliced(self[stream], pos_slice, -2) if rest or not stacks else None
        stack = mx.concatenate(stacks) if stacks else mx.zeros((0, *whole.shape))
        if rest:
            stack = mx.concatenate([stack, (whole - stack.sum(axis=0))[None]])
            labels.append("remainder")
        return self._done(stack, labels, upto, apply_ln, pos_slice, False, return_labels)

    def _done(self, stack, labels, upto, apply_ln, pos_slice, mlp_input, return_labels):
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, upto, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def _upto(self, layer: int | None) -> int:
        count = len(self._model().layers) if self._n_layers is None else self._n_layers
        if layer is None or layer == -1:
            return count
        if not 0 <= layer <= count:
            raise OutOfRangeError(f"there are {count} layers, no layer {layer}")
        return layer

    def _model(self) -> Any:
        if self.model is None:
            raise UsageError("this cache is a copy that knows no model: set cache.model")
        return self.model

    def _scale(self, name: str, upto: int, mlp_input: bool) -> tuple[bool, mx.array]:
        """Whether a norm takes the mean away, and what it divides by."""
        norm = self._model().norm_of(name)
        kept = self.activations.get(f"{name}.hook_scale")
        if kept is not None:
            return norm.centres, kept
        if mlp_input:
            stream = self["resid_mid", upto]
        else:
            last = upto == self._n_layers
            stream = self["resid_post", -1] if last else self["resid_pre", upto]
        return norm.centres, norm.scale(stream)

    def keys(self) -> list[str]:
        return list(self.activations)

    def values(self) -> Iterable[mx.array]:
        return self.activations.values()

    def items(self) -> Iterable[tuple[str, mx.array]]:
        return self.activations.items()

    def to(self, device: Any = None, move_model: bool = False) -> HookCache:
        """Itself: MLX's arrays lie in memory that all devices see."""
        return self
