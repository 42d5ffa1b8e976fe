"""A module tree, walked once: every module with its dotted paths."""

from __future__ import annotations

import mlx.nn as nn

#: What a model may call the norms of its queries and keys.
Q_NORMS = {"q_norm", "q_layernorm", "query_norm", "query_layernorm", "q_ln"}
K_NORMS = {"k_norm", "k_layernorm", "key_norm", "key_layernorm", "k_ln"}

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")


class Node:
    """One module: its index in walking order and its paths, the root's `""`."""

    __slots__ = tuple(
        "attends children has_roles index module paths role".split()
    )

    def __init__(self, module: nn.Module, index: int):
        self.module, self.index = module, index
        self.paths: list[str] = []
        self.children: dict[str, Node] = {}
        #: What its attention uses it for: "q_norm", "k_norm" or "rope".
        self.role: str | None = None
        #: Whether a child has a role.
        self.has_roles = False
        #: Whether its path or class is called attention.
        self.attends = "attention" in type(module).__name__.lower()

    @property
    def path(self) -> str:
        """The first path that leads to it."""
        return self.paths[0]


def role_of(name: str) -> str | None:
    if name in Q_NORMS:
        return "q_norm"
    if name in K_NORMS:
        return "k_norm"
    return "rope" if "rope" in name or "rotary" in name else None


class Tree:
    """All modules below `root`, found in dicts, lists and tuples as MLX keeps
    them. A module that several paths lead to is one node."""

    def __init__(self, root: nn.Module):
        self.root = root
        self.nodes: list[Node] = []
        self.by_id: dict[int, Node] = {}
        self.by_path: dict[str, Node] = {}
        # (container, key, value) of everything walked through, and sizes:
        # what `changed` compares.
        self._edges: list[tuple] = []
        self._sizes: list[tuple] = []
        self._visit(root, "", None, "", ())

    def changed(self) -> bool:
        """Whether a module was replaced, added or removed since."""
        return any(c[k] is not v for c, k, v in self._edges) or any(
            len(c) != n for c, n in self._sizes
        )

    def _visit(self, module, path, parent, name, above):
        if any(module is it for it in above):
            return  # a module inside itself
        node = self.by_id.get(id(module))
        known = node is not None
        if not known:
            node = Node(module, len(self.nodes))
            self.nodes.append(node)
            self.by_id[id(module)] = node
        node.paths.append(path)
        self.by_path[path] = node
        if parent is not None:
            parent.children[name] = node
            node.attends |= name in ATTENTION_NAMES
            node.role = node.role or role_of(name)
            parent.has_roles |= node.role is not None
        self._inside(module, path, node, "", (*above, module), known)

    def _inside(self, container, path, node, prefix, above, known):
        """Visits what `container`, at `prefix` inside the node's module, has."""
        if not known:
            self._sizes.append((container, len(container)))
        keyed = isinstance(container, dict)
        for key, value in container.items() if keyed else enumerate(container):
            if not isinstance(value, (dict, list, tuple)):
                continue
            if not known:
                self._edges.append((container, key, value))
            name, below = f"{prefix}{key}", f"{path}.{key}" if path else str(key)
            if isinstance(value, nn.Module):
                self._visit(value, below, node, name, above)
            elif not any(value is it for it in above):
                inner = (*above, value)
                self._inside(value, below, node, name + ".", inner, known)
