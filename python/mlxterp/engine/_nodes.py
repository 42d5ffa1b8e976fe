"""A module tree, walked once: every module with its dotted paths."""

from __future__ import annotations

import mlx.nn as nn

#: What a model may call the norms of its queries and keys.
Q_NORMS = {"q_norm", "q_layernorm", "query_norm", "query_layernorm", "q_ln"}
K_NORMS = {"k_norm", "k_layernorm", "key_norm", "key_layernorm", "k_ln"}

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")


class Node:
    """One module where one parent holds it: its index in walking order, its
    paths (several where the parent has several names for it), the root's `""`.
    """

    __slots__ = tuple(
        "attends children has_roles index module parent paths role twins".split()
    )

    def __init__(self, module: nn.Module, index: int, parent: Node | None):
        self.module, self.index, self.parent = module, index, parent
        self.paths: list[str] = []
        self.children: dict[str, Node] = {}
        #: Where other parents hold the same module, all of them; else empty.
        self.twins: list[Node] = []
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
    them. A module that several parents hold is a node in each of them."""

    def __init__(self, root: nn.Module):
        self.root = root
        self.nodes: list[Node] = []
        self.by_id: dict[int, Node] = {}  # the first of a module's nodes
        self.by_path: dict[str, Node] = {}
        self._held: dict[tuple[int, int | None], Node] = {}  # id, parent's index
        # (container, key, value) of everything walked through, and sizes:
        # what `changed` compares.
        self._edges: list[tuple] = []
        self._sizes: dict[int, tuple] = {}
        self._visit(root, "", None, "", ())

    def changed(self) -> bool:
        """Whether a module was replaced, added or removed since."""
        try:
            return any(len(it) != n for it, n in self._sizes.values()) or any(
                it[key] is not value for it, key, value in self._edges
            )
        except (KeyError, IndexError):
            return True

    def called(self, module: nn.Module, stack: list[Node]) -> Node | None:
        """The node of a module that is called while those of `stack` run,
        the innermost last: of twins the one that the nearest of them holds."""
        node = self.by_id.get(id(module))
        if node is None or not node.twins:
            return node
        for outer in reversed(stack):
            for twin in node.twins:
                if twin.parent is outer:
                    return twin
        return node

    def _visit(self, module, path, parent, name, above):
        if any(module is it for it in above):
            return  # a module inside itself
        place = id(module), parent.index if parent else None
        node = self._held.get(place)
        if node is None:
            node = self._held[place] = Node(module, len(self.nodes), parent)
            self.nodes.append(node)
            first = self.by_id.setdefault(id(module), node)
            if first is not node:
                first.twins = first.twins or [first]
                first.twins.append(node)
        node.paths.append(path)
        self.by_path[path] = node
        if parent is not None:
            parent.children[name] = node
            node.attends |= name in ATTENTION_NAMES
            node.role = node.role or role_of(name)
            parent.has_roles |= node.role is not None
        self._inside(module, path, node, "", (*above, module))

    def _inside(self, container, path, node, prefix, above):
        """Visits what `container`, at `prefix` inside the node's module, has."""
        known = id(container) in self._sizes
        self._sizes[id(container)] = container, len(container)
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
                self._inside(value, below, node, name + ".", (*above, value))
