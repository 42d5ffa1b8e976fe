"""What users call the sites of a wrapped model.

A site itself is `<path in the wrapped module>.input`, `.output`, or an
attention site; the root's have no path. A user may write the path, upstream's
key (`model.` in front), the path without what leads to the layers (`norm`),
`layers.N` whatever the model calls its list, with N counted from the end if
negative, and a few names that mean the same in every model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from .._core import matching, renamed
from ..errors import UnknownNameError, UsageError
from ._attention import SITES
from ._checks import EMBEDDINGS
from ._nodes import ATTENTION_NAMES, MIXER_NAMES, MLP_NAMES, Node, Tree
from ._residual import FACTORS, SHARES
from .canonical import MLP_PARTS, mlp_site

# What the native engine calls the ends of some modules.
_ENDS = {
    "ln_final.output": "ln_final",
    "unembed.output": "logits",
    "pos_embed.output": "pos_embed",
    "ln_ple_post.output": "ple_out",
    "attn.q_a_norm.output": "attn.q_latent",
    "attn.kv_a_norm.output": "attn.kv_latent",
}
# What makes that which a layer adds to the stream: a norm where one stands
# behind the part, else the part.
_ADDED = {
    "attn_out": ("ln1_post", ("attn", "conv", "delta", "ssm")),
    "mlp_out": ("ln2_post", ("mlp",)),
}

TAILS = ("input", *SITES, *SHARES, "output")  # what a site's name ends in

_ROOT = {
    "": "output",
    "output": "output",
    "logits": "output",
    "__model_output__": "output",
    "input": "input",
}


class Names:
    """Names of one tree. `layers` are its layers' nodes, in order; `attending`
    the indices of modules seen to call fused attention, which may grow."""

    def __init__(
        self, tree: Tree, layers: list[Node], layer_attr: str, attending: set[int]
    ):
        self._tree, self._layers, self._attending = tree, layers, attending
        self._family = str(getattr(tree.root, "model_type", ""))
        self._layer_name = layer_attr.rpartition(".")[2]
        self._layer_index = {node.index: i for i, node in enumerate(layers)}
        lists = {"layers", layer_attr, self._layer_name}
        prefixes = [""]
        if layers:
            where = layers[0].path.split(".")[:-1]
            lists.add(where[-1] if where else "layers")
            above = where[:-1]
            prefixes += [".".join(above[: i + 1]) + "." for i in range(len(above))]
        self._prefixes = prefixes
        self._layer_form = re.compile(
            r"(?:model\.)*(?:"
            + "|".join(map(re.escape, sorted(lists)))
            + r")\.(-?\d+)((?:\..+)?)"
        )
        self._known: dict[str, str] = {}
        embeddings = (it for it in tree.nodes if isinstance(it.module, EMBEDDINGS))
        self._embedding = next(embeddings, None)

    def resolve(self, name: str) -> str:
        if not isinstance(name, str):
            raise UsageError(
                f"A site's name is a str, not {type(name).__name__}: {name!r}"
            )
        site = self._known.get(name) or self._find(name)
        if site is None and is_pattern(name):
            sites = self.match(name)
            if len(sites) > 1:
                raise UsageError(
                    f"'{name}' means {len(sites)} sites where one is needed: "
                    f"{_listed(sites)}."
                )
            site = sites[0]
        if site is None:
            raise self.unknown(name)
        self._known[name] = site
        return site

    def match(self, pattern: str) -> list[str]:
        if not isinstance(pattern, str) or not is_pattern(pattern):
            return [self.resolve(pattern)]
        names, sites = zip(*self._all())
        for form in (pattern, _bare(pattern)):
            if found := {sites[i] for i in matching(form, names)}:
                return sorted(found, key=self._order)
        raise self.unknown(pattern)

    def unknown(self, name: str) -> UnknownNameError:
        """The error for a name, with the nearest that mean something."""
        bare = _bare(name)
        names = list(dict.fromkeys(it for it, _ in self._all()))
        short = [it for it in names if not it.startswith("model.")] or names
        near = difflib.get_close_matches(bare, short, n=3, cutoff=0.6)
        hint = f"did you mean {_listed(near)}?" if near else "see named_modules()."
        layers = f" ({len(self._layers)} layers)" if self._layers else ""
        kind = type(self._tree.root).__name__
        return UnknownNameError(f"'{name}' is nothing in this {kind}{layers}: {hint}")

    def _find(self, name: str) -> str | None:
        if name in _ROOT:
            return _ROOT[name]
        return next(filter(None, map(self._site, self._spellings(name))), None)

    def _spellings(self, name: str) -> Iterator[str]:
        """The paths a name may stand for, the most literal first."""
        for lead in ("", "model.", "model.model."):
            if name.startswith(lead):
                yield name[len(lead) :]
        if layer := self._layer_form.fullmatch(name):
            n = int(layer[1])
            if -len(self._layers) <= n < len(self._layers):
                yield self._layers[n].path + layer[2]
        for prefix in self._prefixes:
            yield prefix + name

    def _site(self, path: str) -> str | None:
        """The site of a spelled-out path, with or without a tail."""
        if path in self._tree.by_path and path:
            return _join(self._tree.by_path[path], "output")
        head, _, tail = path.rpartition(".")
        node = self._tree.by_path.get(head)
        if node is not None and tail in MLP_PARTS:
            return self._in_mlp(node, tail)
        tails = node and self._tails(node, self._may_attend(node))
        return _join(node, tails[tail]) if tails and tail in tails else None

    def _in_mlp(self, mlp: Node, value: str) -> str | None:
        """`pre`, `pre_linear` or `post` of an MLP, an input or output of its parts."""
        gated = "gate_proj" in mlp.children
        parts = MLP_PARTS[value] if gated or value != "pre_linear" else ()
        for child, end in (it.split(".") for it in parts):
            if child in mlp.children:
                return _join(mlp.children[child], end)
        return None

    def _tails(self, node: Node, attends: bool) -> dict[str, str]:
        """What may stand behind a module's name, and what ends the site's."""
        tails = {"input": "input", "output": "output"}
        if attends:
            tails |= dict(zip(SITES, SITES)) | {"attention_weights": "pattern"}
        if node.index in self._layer_index:
            tails |= {"resid_pre": "input", "resid_post": "output"}
            mixer = self.mixer_of(node)
            has = mixer, mixer, self.mlp_of(node)
            tails |= {share: share for share, part in zip(SHARES, has) if part}
        return tails

    def canonical(self, site: str) -> str:
        """What a resolved site is called in every model, and so by the native
        engine; itself where it has no such name."""
        path, _, tail = site.rpartition(".")
        node = layer = self._tree.by_path[path]
        if not path:
            return "logits" if tail == "output" else "tokens"
        if tail == "output" and node is self._embedding:
            return "embed"
        while layer is not None and layer.index not in self._layer_index:
            layer = layer.parent
        name = renamed(self._family, site)
        if layer is None:
            return _ENDS.get(name, name)
        here = f"layers.{self._layer_index[layer.index]}."
        if layer is node:
            ends = {"input": "resid_pre", "output": "resid_post"}
            return here + ends.get(tail, tail)
        if tail in SITES:
            return f"{here}attn.{tail}" if node is self.attention_of(layer) else site
        mlp = self.mlp_of(layer)
        if mlp is not None and site.startswith(mlp.path + "."):
            part = site[len(mlp.path) + 1 :]
            if found := mlp_site(part, "gate_proj" in mlp.children):
                return f"{here}mlp.{found}"
        if not name.startswith(here):
            return name
        return here + self._part_of_layer(layer, node, name[len(here) :])

    def _part_of_layer(self, layer: Node, node: Node, name: str) -> str:
        """A module's end, renamed as the family's weights are, by the name that
        the native engine has for it, if it has one."""
        head, _, end = name.rpartition(".")
        above, _, module = head.rpartition(".")
        if found := mlp_site(f"{module}.{end}", self._gated(node)):
            return f"{above}.{found}" if above else name
        scaled = any(getattr(layer.module, it, 1) != 1 for it in FACTORS)
        if end == "output" and not scaled:
            beside = {self._renamed(it) for it in layer.children.values()}
            for added, (norm, parts) in _ADDED.items():
                if head in ((norm,) if norm in beside else parts):
                    return added
        return _ENDS.get(name, name)

    def _renamed(self, node: Node) -> str:
        """The last part of a module's path in the native engine."""
        return renamed(self._family, node.path).rpartition(".")[2]

    def _gated(self, part: Node) -> bool:
        """Whether a part of an MLP lies beside a gate."""
        beside = part.parent.children.values() if part.parent else ()
        return any(self._renamed(it) == "gate_proj" for it in beside)

    def part(self, layer: int, out: str) -> str:
        node = self._layers[layer]
        part = self.attention_of(node) if out == "attn_out" else self.mlp_of(node)
        if part is None:
            raise UnknownNameError(f"'{node.path}' has nothing that makes its {out}.")
        return part.path

    def mlp_of(self, layer: Node) -> Node | None:
        """The child that is the layer's MLP."""
        names = [name for name in MLP_NAMES if name in layer.children]
        return layer.children[names[0]] if names else None

    def attention_of(self, layer: Node) -> Node | None:
        """The child that holds the layer's attention."""
        found = layer
        while inner := [n for n in ATTENTION_NAMES if n in found.children]:
            found = found.children[inner[0]]
        if found is not layer:
            return found
        for child in layer.children.values():
            if {it.index for it in child.below()} & self._attending:
                return child
        return None

    def mixer_of(self, layer: Node) -> Node | None:
        """The child that mixes positions: attention, or what stands in its
        place."""
        found = self.attention_of(layer)
        if found is not None or self.mlp_of(layer) is None:
            return found
        names = [name for name in MIXER_NAMES if name in layer.children]
        return layer.children[names[0]] if names else None

    def _may_attend(self, node: Node) -> bool:
        """Whether its attention sites can exist. Only a pass tells, so before
        the first every module with parts may."""
        if node.index in self._attending or node.attends:
            return True
        return not self._attending and bool(node.children)

    def _all(self) -> Iterator[tuple[str, str]]:
        """Every name a pattern can match, with its site."""
        for node in self._tree.nodes:
            attends = node.index in self._attending or node.attends
            for path in node.paths:
                for name in dict.fromkeys(self._forms(node, path)):
                    yield from self._named(node, name, attends)
        for name, site in _ROOT.items():
            if name:
                yield name, site

    def _named(self, node: Node, name: str, attends: bool):
        """Names of one module's sites, where `name` is the module's own."""
        dot = name + "." if name else ""
        if name:
            yield name, _join(node, "output")
        for tail, own in self._tails(node, attends).items():
            yield dot + tail, _join(node, own)

    def _forms(self, node: Node, path: str) -> Iterator[str]:
        yield path
        for prefix in self._prefixes[::-1]:
            if prefix and path.startswith(prefix):
                yield path[len(prefix) :]
        for layer in self._layers:
            if path == layer.path or path.startswith(layer.path + "."):
                n = self._layer_index[layer.index]
                yield f"layers.{n}{path[len(layer.path) :]}"

    def _order(self, site: str):
        path, _, tail = site.rpartition(".")
        return self._tree.by_path[path].index, TAILS.index(tail)


def is_pattern(name: str) -> bool:
    return any(it in name for it in "*{}")


def _bare(name: str) -> str:
    return re.sub(r"^(model\.)+", "", name)


def _join(node: Node, tail: str) -> str:
    return f"{node.path}.{tail}" if node.path else tail


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
