"""The engine for any `mlx.nn.Module`, traced without editing it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import mlx.core as mx
import mlx.nn as nn

from ..errors import UsageError
from ._checks import EMBEDDINGS, ChecksIds, padded, sees_ahead
from ._compiled import hold_compiled, uncompiled
from ._edits import Edit
from ._names import TAILS, Names
from ._nodes import Node, Tree, layer_list
from ._pass import Plan, WrappedPass, first
from ._patches import calling_class, stepped_in
from ._places import Event, Part, Unclear, places
from ._random import random_state_kept
from ._residual import SHARES, Middle, Share, shares
from ._threads import leave_clean
from .base import Intervention


class WrappedEngine:
    """The `Engine` of the contract on an `mlx.nn.Module`.

    While a pass is built, calls of the module's parts step through this
    engine (see `_patches`); afterwards everything is as it was found. The
    module may be changed, trained or quantised between passes. Passes may run
    on several threads at once, where the module's parameters are evaluated:
    MLX's lazy arrays belong to the thread that made them.

    Modules that hold functions made by `mx.compile` run uncompiled in a pass;
    one kept elsewhere that calls modules is out of sight, and must not be
    called for the first time in a pass with interventions.
    """

    def __init__(self, module: nn.Module, layer_attr: str | None = "layers"):
        """layer_attr: what the list of layers is called, on the module itself
        or on its `model`; without such a list there are no `layers.N`."""
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"An mlx.nn.Module is needed, not {type(module).__name__}."
            )
        self.module = module
        self._layer_attr = layer_attr or "layers"
        self._lock = threading.Lock()
        self._walk()

    def _walk(self):
        """Learns the module tree, again where it has changed."""
        self._tree = Tree(self.module)
        self._attending: set[int] = set()
        self._places: dict[int, dict[str, Event | Part]] = {}
        self._shares: dict[int, dict[str, Share | Middle]] = {}
        classes = {calling_class(type(node.module)) for node in self._tree.nodes}
        self._classes = list(classes - {None})
        self._compiled = hold_compiled([node.module for node in self._tree.nodes])
        self._embeddings = [
            calling_class(type(node.module))
            for node in self._tree.nodes
            if isinstance(node.module, EMBEDDINGS)
        ]
        self._sees_ahead: str | None = None
        layers = layer_list(self.module, self._layer_attr)
        self._layers = self._tree.entries(layers[1]) if layers else []
        self.n_layers = len(self._layers)
        self._names = Names(self._tree, self._layers, self._layer_attr, self._attending)

    def _current(self):
        """(tree, names, classes) of the module as it is now."""
        with self._lock:
            if self._tree.changed():
                self._walk()
            return self._tree, self._names, self._classes

    def resolve(self, name: str) -> str:
        return self._current()[1].resolve(name)

    def match(self, pattern: str) -> list[str]:
        return self._current()[1].match(pattern)

    def told(self, site: str) -> str:
        """What interventions are told that a resolved site is called."""
        tree, names, _ = self._current()
        known = site.rpartition(".")[0] in tree.by_path
        return names.canonical(site) if known else site

    def part(self, layer: int, out: str) -> str:
        return self._current()[1].part(layer, out)

    def run(
        self,
        inputs: list[list[int]] | mx.array,
        interventions: Sequence[tuple[str, Intervention]] = (),
    ) -> WrappedPass:
        """As the contract says. Padding has id 0."""
        leave_clean()
        tree, _, classes = self._current()
        ids, lengths, ends = self._padded(inputs)
        plan = self._plan(interventions, ids, lengths, tree)
        run = WrappedPass(self, tree, plan, lengths, ends)
        with uncompiled() if self._compiled else nullcontext():
            run.build(classes, self.module, ids)
        self._attending.update(node.index for node in run.attending())
        return run

    def forward(self, *args, **kwargs):
        """The plain module, untraced also inside an intervention; its token
        ids are checked, and rows of them padded."""
        leave_clean()
        tree, _, _ = self._current()
        if args and isinstance(args[0], list):
            args = self._padded(args[0])[0], *args[1:]
        checks = ChecksIds(lambda module: tree.by_id[id(module)].path)
        with stepped_in(self._embeddings, checks):
            return self.module(*args, **kwargs)

    def attach(self, site, module, mode, name, by_position, standing=()):
        """As the contract says."""
        from .attached import Attached

        return Attached(self, site, module, mode, name, standing)

    def _padded(self, inputs: list[list[int]] | mx.array):
        """`padded`, where the module does not look at padding."""
        ids, lengths, ends = padded(inputs)
        if len(set(lengths)) > 1 and self._sees_ahead is None:
            with uncompiled() if self._compiled else nullcontext():
                self._sees_ahead = sees_ahead(lambda x: first(self.module(x)), inputs)
        if len(set(lengths)) > 1 and self._sees_ahead:
            raise UsageError(
                f"Rows of {', '.join(map(str, lengths))} tokens do not go into one "
                f"batch: the shorter ones would be padded, and this "
                f"{type(self.module).__name__} {self._sees_ahead}. Give rows of one "
                "length, or each by itself."
            )
        return ids, lengths, ends

    def named_modules(self) -> list[tuple[str, nn.Module]]:
        """Dotted paths and modules, the root (`""`) first."""
        return [(it.path, it.module) for it in self._current()[0].by_id.values()]

    def parameters(self) -> dict:
        """The module's tree of parameters."""
        return self.module.parameters()

    def _plan(
        self, interventions, inputs: mx.array, lengths: list[int], tree: Tree
    ) -> Plan:
        plan = Plan()
        for site, fn in interventions:
            path, _, tail = site.rpartition(".")
            node = tree.by_path.get(path)
            if node is None or tail not in TAILS:
                raise self._names.unknown(site)
            edit = Edit(site, fn, self._names.canonical(site), lengths)
            plan.all.append(edit)
            if tail in ("input", "output"):
                group = plan.inputs if tail == "input" else plan.outputs
                group.setdefault(node.index, []).append(edit)
                continue
            if tail in SHARES:
                self.share(node, tail, inputs).add(edit, plan, node)
                continue
            # Scores and pattern are edited in the attention call itself.
            own = tail in ("scores", "pattern")
            place = None if own else self.places(node, None, inputs).get(tail)
            if place is not None:
                place.add(edit, plan, node)
            else:
                of_node = plan.attention.setdefault(node.index, {})
                of_node.setdefault(tail, []).append(edit)
        return plan

    def share(self, layer: Node, tail: str, inputs: mx.array) -> Share | Middle:
        """Where a layer's `attn_out`, `resid_mid` or `mlp_out` is (see
        `_residual`), learnt from a pass on a few of the inputs and remembered.
        Raises UsageError where there is none."""
        if layer.index not in self._shares:
            run = self._probe(inputs[:1, :4] if inputs.ndim == 2 else inputs, 1)
            for it in self._layers:
                mixer = self._names.mixer_of(it)
                self._shares[it.index] = shares(it, mixer, run)
        found = self._shares[layer.index]
        if tail in found:
            return found[tail]
        what = "resid_pre + attn_out + mlp_out of any of its parts' outputs"
        if found:
            what = "made so: it has " + ", ".join(found)
        raise UsageError(
            f"'{layer.path}' ({type(layer.module).__name__}) has no {tail}: what it "
            f"returns is {'' if found else 'not '}{what}. Its parts' inputs and "
            "outputs are there by their own names."
        )

    def places(
        self, node: Node, run: WrappedPass | None, inputs: mx.array
    ) -> dict[str, Event | Part]:
        """Where an attention module's values are that its attention call does
        not show (see `_places`), learnt from `run` and remembered. Without a
        run, or where its axes are ambiguous, a pass is built for it on longer
        inputs; nothing of it is evaluated."""
        for longer in range(3):
            if node.index in self._places:
                break
            if run is None or longer:
                run = self._probe(inputs, longer)
            for it in run.attending():
                with suppress(Unclear):
                    self._places[it.index] = places(it, run)
            if node not in run.attending():
                break
        return self._places.get(node.index, {})

    def _probe(self, inputs: mx.array, longer: int) -> WrappedPass:
        if inputs.ndim > 1:
            inputs = mx.concatenate([inputs] + [inputs[:, -1:]] * longer, axis=1)
        with random_state_kept():
            return self.run(inputs)
