"""`InterpretableModel`, where everything starts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import _core
from .analysis._native import generating
from .analysis.features import attach_sae as attached_sae
from .analysis.features import features as read_features
from .analysis.saes import SAE
from .compat import elsewhere
from .compat.nnterp import LayerMixin
from .compat.transformer_lens import HookMixin
from .compat.v01.analysis import AnalysisMixin
from .compat.v01.habits import Lax
from .compat.v01.sae import SAEMixin
from .core import LayerListProxy, ModuleResolver, OutputProxy, Trace, TraceContext
from .core.generation import Generation, forced_rows, generation, timed
from .core.habits import Strict
from .core.inputs import to_rows
from .core.proxy import part, read, wrapped, write
from .core.tokenization import TokenizerMixin
from .core.trace import OUTPUT, planned
from .engine._nodes import layer_list
from .engine.base import Engine
from .engine.native import NativeEngine
from .engine.wrapped import WrappedEngine
from .errors import UnknownNameError, UsageError


class InterpretableModel(
    TokenizerMixin, AnalysisMixin, SAEMixin, HookMixin, LayerMixin
):
    """A model, opened for reading and editing.

        model = InterpretableModel(module, tokenizer)
        with model.trace("Hello world"):
            attn = model.layers[3].self_attn.output.save()
            logits = model.output.save()

    The model itself is never changed: outside of a trace it is as it was.
    Its modules, and whatever else it has, are attributes of this object too.

    Args:
        model: an `mlx.nn.Module`, of any architecture; or the path or name of
            a model for the native engine.
        tokenizer: anything with `encode` and `decode`; needed for text.
        layer_attr: what the list of layers is called, on the model or on its
            `model`; None for a module that has none.
        embedding_path, norm_path, lm_head_path: where the embedding, the last
            norm and the unembedding are, if not in a usual place.
        strict: raise on names that mean nothing and on `.save()` outside a
            trace; False has mlxterp 0.1's habits (`compat.v01.habits`) and, as
            `model.interventions`, its interventions.
        parse_special: whether control tokens (`<|im_start|>`) in a text become what
            they are called, as transformers has it; False leaves them plain
            text, for text that is not trusted.
        revision: of a model on a hub: a branch, a tag or a commit.
        packed: whether the matrices of a quantised checkpoint stay packed in
            memory; None: on a GPU, or where they would not fit unpacked.
        half: leave matrices in memory in the half precision that their file has
            them in, and compute with them in float32.
        engine: runs the model, in place of the one chosen for it.

    Raises:
        AttributeError: there is no list called `layer_attr`.
        IoError, BadDataError, UsageError (all ValueError or OSError): a path
            that cannot be loaded, or something that is not a model.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike,
        tokenizer: Any = None,
        layer_attr: str | None = "layers",
        embedding_path: str | None = None,
        norm_path: str | None = None,
        lm_head_path: str | None = None,
        *,
        strict: bool = True,
        parse_special: bool = True,
        revision: str | None = None,
        packed: bool | None = None,
        half: bool = False,
        engine: Engine | None = None,
    ):
        # How pickle finds it again.
        own = "self", "model", "engine", "own"
        again = {name: it for name, it in locals().items() if name not in own}
        local = isinstance(model, (str, os.PathLike)) and os.path.exists(model)
        path = os.path.abspath(model) if local else model
        self._from = path if engine is None else None, again
        if engine is None:
            how = {"revision": revision, "packed": packed, "half": half}
            engine = _engine_for(model, layer_attr, parse_special, **how)
        self.engine = engine
        self.habits: Strict = Strict() if strict else Lax()
        #: Edits at resolved sites that every pass makes first: see `edited`.
        self.standing: list[tuple[str, Callable]] = []
        # The wrapped module, or what the native engine runs.
        self.model = getattr(engine, "module", getattr(engine, "model", engine))
        own = getattr(engine, "tokenizer", None)
        self.tokenizer = own if tokenizer is None else tokenizer
        self._layer_attr = layer_attr
        self.layers = self._find_layers()
        paths = embedding_path, norm_path, lm_head_path
        self._module_resolver = ModuleResolver(self.model, *paths)

    def _find_layers(self) -> LayerListProxy:
        name = self._layer_attr
        if name is None:
            return LayerListProxy([], model=self)
        if not isinstance(self.model, nn.Module):
            return LayerListProxy([None] * self.engine.n_layers, name, model=self)
        if found := layer_list(self.model, name):
            path, layers = found
            return LayerListProxy(layers, name, self.model, path, model=self)
        inner = self.model.get("model")
        held = {**self.model, **(inner if isinstance(inner, nn.Module) else {})}
        kinds = list, tuple, nn.Sequential
        lists = [key for key, value in held.items() if isinstance(value, kinds)]
        raise UnknownNameError(
            f"{type(self.model).__name__} has no list of layers at '{name}' or "
            f"'model.{name}': give its name as layer_attr="
            + (f" (it has {', '.join(map(repr, lists))})." if lists else ".")
        )

    def trace(
        self,
        inputs: Any,
        interventions: Mapping[str, Callable] | None = None,
        activations: bool = False,
    ) -> Trace:
        """A pass to use in a `with`.

        inputs: text, a list of texts, token ids, a list of them (rows may
            differ in length), or an mx.array [batch, pos].
        interventions: name or pattern of a site (`layers.4`,
            `layers.*.self_attn.pattern`) to a function of its value, applied
            in this order. Alone a module's name means its output.
        activations: keep `trace.activations` whole after a block that saved
            values; without it, a block that saves nothing keeps them.
        """
        return Trace(
            self._forward,
            inputs,
            tokenizer=self.tokenizer,
            interventions=interventions,
            interpretable_model=self,
            activations=activations,
        )

    def generate(
        self,
        prompts: Any,
        max_tokens: int = 100,
        interventions: Mapping[str, Callable] | None = None,
        intervention_tokens: Sequence[int] | None = None,
        *,
        when: _core.When | str | None = None,
        save: str | Sequence[str] = (),
        stop: str | Sequence[str] = (),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | Sequence[int] | None = None,
        ends: bool = True,
        forced: Any = None,
        cache: bool = True,
        chunk: int | None = None,
        reuse: _core.PromptCache | None = None,
        probes: Sequence[Any] = (),
    ) -> Generation:
        """Continues a prompt, or several of any lengths side by side; runs when the
        result is read or iterated over (see `Generation`). A wrapped module runs
        all positions again for every token; it has no `reuse`.

        prompts: whatever `trace` takes.
        max_tokens: at most so many.
        interventions: name or pattern of a site to what acts on its value.
        when: when they act: 'prompt', 'generated', 'all' (the default), 'step:3',
            'steps:2..5'. Step 0 is the prompt, step k the k-th generated token.
            `mlxterp.during(when, intervention)` says it of one alone.
        intervention_tokens: the steps at which they act, in place of `when`.
        save: sites or patterns whose values are kept, of every position.
        stop: texts that end an answer.
        temperature: above 0 the next token is drawn, else the likeliest taken.
            Filters act in this order: repetition_penalty, top_k, top_p, min_p,
            temperature; where there is a temperature, what is not given is what
            the model's generation_config.json says.
        seed: of the draws; a list has one for each prompt.
        ends: whether a token that ends a text does.
        forced: the text or ids that each prompt goes on with, whatever the model
            would say: its values are those of that text.
        cache: False runs all positions again for every token.
        chunk: positions of a prompt that run at once.
        reuse: a `mlxterp.PromptCache`: begins where earlier generations left off,
            and leaves what this one ran.
        probes: each a `mlxterp.Probe`; `probes` of the result, and of each step,
            are what they say. Their sites are saved, too.

        Raises UsageError, UnknownNameError, OutOfRangeError.
        """
        edits = timed(planned(self, interventions or {}), when, intervention_tokens)
        return generation(
            self,
            generating,
            to_rows(prompts, self.tokenizer),
            edits,
            save,
            stop,
            seed,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            ends=ends,
            forced=None if forced is None else forced_rows(forced, self.tokenizer),
            cache=cache,
            chunk=chunk,
            reuse=reuse,
            probes=probes,
        )

    def edited(self, interventions: Mapping[str, Callable]) -> InterpretableModel:
        """A handle on the same model with standing edits, which each of its passes
        makes. Edits and attached modules act in the order they were added,
        before the edits of a pass. This handle stays as it is. Raises
        UnknownNameError, UsageError."""
        edits = planned(self, interventions)
        return self._handle(standing=[*self.standing, *edits])

    def attach(
        self,
        site: str,
        module: Callable[[mx.array], mx.array],
        mode: str = "read",
        name: str = "attached",
        by_position: bool = False,
    ) -> InterpretableModel:
        """A handle on the same model with a module attached: in its passes an
        `mlx.nn.Module`, or a function of an mx.array, gets the value of a site.
        Its parts are sites, `<site>.<name>.<part>`, to read, to edit and, on a
        native model, to sweep. This handle stays as it is. Raises
        UnknownNameError, UsageError.

        mode: "read" leaves the site's value as it is, "replace" replaces it by
            what the module returns, "replace_with_error" by that plus the
            module's error without edits inside, which is the site `error`.
        name: of the module, in the names of its sites.
        by_position: what the module returns at a position depends on that
            position alone, as in a sparse autoencoder. Sweeps of a native model
            then compute only what changes; otherwise they run whole sequences.
        """
        engine = self.engine.attach(
            site, module, mode, name, by_position, self.standing
        )
        return self._handle(engine=engine, standing=[])

    def attach_sae(
        self,
        sae: SAE,
        mode: str = "read",
        name: str = "sae",
        site: str = "",
        reads: str = "",
        check_on=None,
    ) -> InterpretableModel:
        """A handle on the same model, which mlxterp loaded itself, with a sparse
        autoencoder or transcoder at its site: its features are the site
        `<site>.<name>.acts` [batch, pos, feature], beside `pre`, `recon` and, with
        "replace_with_error", `error`; to read, edit and sweep like all others.
        Until a feature is edited the model's values then stay the same bit by bit.
        A transcoder stands where it writes and reads its own site. Raises
        UsageError for another width or where it does not fit, UnknownNameError.

        mode: "read", "replace" or "replace_with_error", as in `attach`.
        site, reads: where it belongs, if its file does not say or is wrong.
        check_on: a prompt or several on which it has to explain something, and
            have about as many active features as its file says; else UsageError
            guesses the cause.
        """
        return attached_sae(self, sae, mode, name, site, reads, check_on)

    def features(
        self,
        prompt,
        sae: SAE,
        top: int = 5,
        *,
        features: int | Sequence[int] | None = None,
        tokens: int = 5,
        site: str = "",
        reads: str = "",
        name: str = "sae",
    ) -> _core.FeatureReading:
        """The features of an SAE in one prompt. Raises UsageError,
        OutOfRangeError.

        Returns `positions`, each with `top`, the most active features there as
        `feature` and `value`, and how many are `active`; `logits`, the tokens that
        each of these features promotes and suppresses; `fit`, how much of the
        site's variance the SAE explains behind the first position; `ids`, `sites`.

        top: features of a position.
        features: only these, at every position, in this order; the others are not
            computed where features do not compete.
        tokens: that a feature promotes; 0 leaves `logits` empty.
        name: under which it is attached to this handle, if it is: what edits leave
            of its activations is read then.
        """
        more = {"site": site, "reads": reads, "name": name}
        return read_features(
            self, prompt, sae, top, features=features, tokens=tokens, **more
        )

    def _handle(self, **changes) -> InterpretableModel:
        other = object.__new__(type(self))
        other.__dict__.update({**self.__dict__, "_from": None, **changes})
        other.layers = other._find_layers()
        return other

    def __call__(self, *args, **kwargs):
        """The plain forward pass, of whatever `trace` takes or the module, with
        the standing edits."""
        ids = args and isinstance(args[0], mx.array) and args[0].ndim == 1
        ids = ids and mx.issubdtype(args[0].dtype, mx.integer)
        if args and (ids or self.standing or isinstance(args[0], (str, list, tuple))):
            args = to_rows(args[0], self.tokenizer), *args[1:]
        if self.standing and len(args) == 1 and not kwargs:
            return self.engine.run(args[0], self.standing).output
        if self.standing:
            raise UsageError("An edited model is called with its inputs alone.")
        return self.engine.forward(*args, **kwargs)

    def __setattr__(self, name: str, value: Any):
        """Inside a trace a site's name sets its value, as `model.logits = v`, and
        one that means nothing is an error; outside it is an attribute."""
        own = name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)
        number = isinstance(value, (mx.array, int, float)) and not isinstance(value, bool)
        traced = not own and TraceContext.current(self) is not None
        if traced or not own and number and "engine" in self.__dict__:
            try:
                return write(self, self.engine.resolve(name), value)
            except UnknownNameError as error:
                if traced:
                    near = get_close_matches(name, dir(type(self)), n=1, cutoff=0.8)
                    hint = f"; or is it 'model.{near[0]}'?" if near else ""
                    raise UnknownNameError(f"{error}{hint}") from None
        object.__setattr__(self, name, value)

    def __copy__(self) -> InterpretableModel:
        """Another handle on the same model."""
        return self._handle(_from=self._from)

    def __reduce__(self):
        """A model on disk or a hub is loaded again by its path."""
        if self._from is None:
            raise UsageError(
                "a handle with edits or attached modules is not copied: pickle the "
                "plain model, and make the handle of its copy"
            )
        path, again = self._from
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(
                f"this model wraps {type(self.model).__name__}, or has an engine that "
                "was given, which pickle cannot copy: build it again, or give mlxterp "
                "the path of its checkpoint"
            )
        if self.engine.model.updated:
            raise UsageError(
                f"parameters of this model were set since it was loaded from '{path}', "
                "where its copy would not find them: copy.copy shares them"
            )
        return partial(type(self), **again), (os.fspath(path),)

    def _forward(self, inputs):
        return self(inputs)

    @property
    def strict(self) -> bool:
        """Whether every slip is an error."""
        return type(self.habits) is Strict

    @property
    def interventions(self) -> SimpleNamespace:
        """`mlxterp.interventions`, with `strict=False` those of mlxterp 0.1."""
        return self.habits.interventions

    @property
    def output(self) -> OutputProxy:
        """What the model returned, inside a trace."""
        return read(self, OUTPUT)

    @output.setter
    def output(self, value: Any) -> None:
        write(self, OUTPUT, value)

    @property
    def input(self) -> OutputProxy:
        """What the model was given, inside a trace."""
        return read(self, "input")

    def __getitem__(self, site: str) -> OutputProxy:
        """Any site by its name. Raises UnknownNameError."""
        self.engine.resolve(site)
        return read(self, site)

    def __setitem__(self, site: str, value: Any) -> None:
        """Sets it, inside a trace."""
        write(self, site, value)

    def named_modules(self) -> list[tuple[str, Any]]:
        """Dotted paths and modules, the model itself (`""`) first."""
        return self.engine.named_modules()

    def parameters(self) -> dict:
        """The tree of parameters."""
        return self.engine.parameters()

    def trainable_parameters(self) -> dict:
        """The tree of those that are not frozen."""
        own = getattr(self.model, "trainable_parameters", self.parameters)
        return own()

    def train(self, mode: bool = True) -> InterpretableModel:
        """Training mode (dropout on), if the model has one."""
        if hasattr(self.model, "train"):
            self.model.train(mode)
        return self

    def eval(self) -> InterpretableModel:
        """The other mode."""
        return self.train(False)

    def __getattr__(self, name: str):
        # Only what this object itself does not have comes here; before
        # __init__ has run there is no model to ask.
        model = self.__dict__.get("model")
        if name.startswith("__") or model is None:
            raise AttributeError(name)
        if name in _core.weight_names:
            return self.weight(name)  # says what is missing
        native = not isinstance(model, nn.Module)
        if not native and hasattr(model, name):
            return wrapped(getattr(model, name), name, self)
        inner = getattr(model, "model", None)
        if isinstance(inner, nn.Module) and isinstance(inner.get(name), nn.Module):
            return wrapped(inner[name], name, self)
        try:  # a name of a site, as `logits`
            return part(self, getattr(model, name, None) if native else None, name)
        except UnknownNameError as error:
            raise UnknownNameError(f"{error}{elsewhere(name)}") from None

    def __repr__(self) -> str:
        parts = f"model={type(self.model).__name__}", f"layers={len(self.layers)}"
        known = f"tokenizer={'✗' if self.tokenizer is None else '✓'}"
        return "InterpretableModel(\n  " + ",\n  ".join([*parts, known]) + "\n)"


def _engine_for(
    model: Any, layer_attr: str | None, special: bool, **how
) -> Engine:
    if isinstance(model, nn.Module):
        return WrappedEngine(model, layer_attr)
    if not isinstance(model, (str, os.PathLike, _core.Model)):
        hint = ": write InterpretableModel(*mlx_lm.load(...)), with a star"
        raise UsageError(
            "a model is an mlx.nn.Module, or the path or name of one to load, not "
            f"{type(model).__name__}{hint if isinstance(model, tuple) else ''}"
        )
    warn = partial(warnings.warn, stacklevel=4)
    return NativeEngine(model, warn=warn, parse_special=special, **how)
