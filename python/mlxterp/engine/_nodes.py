"""A module tree, walked once: every module with its dotted paths."""

from __future__ import annotations

import mlx.nn as nn

#: What a model may call the norms of its queries and keys.
Q_NORMS = {"q_norm", "q_layernorm", "query_norm", "query_layernorm", "q_ln"}
K_NORMS = {"k_norm", "k_layernorm", "key_norm", "key_layernorm", "k_ln"}

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
#: What stands in its place in other layers of such models.
MIXER_NAMES = ("linear_attn", "conv", "mamba")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "ff")


class Node:
    """One module in one place: its index in walking order, its paths (several
    where the place has several names), the root's `""`. A place is an entry of
    a list, or all attributes in which a parent holds the module.
    """

    __slots__ = tuple(
        "attends children has_roles holds index module names parent paths role "
        "shared twins".split()
    )

    def __init__(self, module: nn.Module, index: int, parent: Node | None):
        self.module, self.index, self.parent = module, index, parent
        self.paths: list[str] = []
        self.children: dict[str, Node] = {}
        #: All nodes of the same module, in order, where there are others.
        self.twins: list[Node] = []
        #: How many attributes of its parent it stands for.
        self.names = 0
        #: Of a module that one parent has in several places.
        self.shared: Shared | None = None
        #: What this module shares among its own places.
        self.holds: list[Shared] = []
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

    def below(self) -> set[Node]:
        """It and all that it holds."""
        return {self}.union(*(it.below() for it in self.children.values()))


class Shared:
    """One module in several places of one parent. Which call is of which place
    only the order of a list can tell: its n-th entry is the n-th call."""

    def __init__(self):
        self.entries: list[Node] = []  # of lists
        self.lists: set[int] = set()
        self.attribute: Node | None = None

    def at(self, call: int) -> Node:
        """The node of a call of the module, counted within its parent's."""
        if not self.entries:
            return self.attribute
        return self.entries[min(call, len(self.entries) - 1)]

    def unclear(self, node: Node, calls: int) -> bool:
        """Whether a place cannot be told from the others, after that many."""
        if node is self.attribute:
            return bool(self.entries) or calls > 1 < node.names
        return calls != len(self.entries) or len(self.lists) > 1

    def places(self) -> str:
        nodes = [*self.entries, *([self.attribute] if self.attribute else [])]
        paths = [path for node in nodes for path in node.paths]
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        return ", ".join(paths[:3]) + more


def role_of(name: str) -> str | None:
    if name in Q_NORMS:
        return "q_norm"
    if name in K_NORMS:
        return "k_norm"
    return "rope" if "rope" in name or "rotary" in name else None


def layer_list(module: nn.Module, name: str) -> tuple[str, list | tuple] | None:
    """The path of the list of that name, on a module or on its `model`, and what
    is in it."""
    for path in (name, f"model.{name}"):
        found = module
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.Sequential):
            found = found.layers
        if isinstance(found, (list, tuple)):
            return path, found
    return None


class Tree:
    """All modules below `root`, found in dicts, lists and tuples as MLX keeps
    them. A module in several places is a node in each of them."""

    def __init__(self, root: nn.Module):
        self.root = root
        self.nodes: list[Node] = []
        self.by_id: dict[int, Node] = {}  # the first of a module's nodes
        self.by_path: dict[str, Node] = {}
        self._held: dict[tuple, Node] = {}  # by module, parent and list entry
        # (container, key, value) of everything walked through, and sizes:
        # what `changed` compares.
        self._edges: list[tuple] = []
        self._sizes: dict[int, tuple] = {}
        self._visit(root, "", None, "", None, ())
        self._share()

    def changed(self) -> bool:
        """Whether a module was replaced, added or removed since."""
        try:
            return any(len(it) != n for it, n in self._sizes.values()) or any(
                it[key] is not value for it, key, value in self._edges
            )
        except (KeyError, IndexError):
            return True

    def entries(self, modules) -> list[Node]:
        """The nodes of the modules in a list, in order."""
        found, seen = [], {}
        for module in modules:
            node = self.by_id.get(id(module))
            if node is None:
                continue
            turn = seen[node] = seen.get(node, -1) + 1
            places = node.shared.entries if node.shared else ()
            found.append(places[turn] if turn < len(places) else node)
        return found

    def called(self, module: nn.Module, stack: list[Node]) -> Node | None:
        """A node of a module that is called while those of `stack` run, the
        innermost last: one that the nearest of them holds."""
        node = self.by_id.get(id(module))
        if node is None or not node.twins:
            return node
        for outer in reversed(stack):
            for twin in node.twins:
                if twin.parent is outer:
                    return twin
        return node

    def _visit(self, module, path, parent, name, entry, above):
        """`entry`: (list's id, index) where a list holds it."""
        if any(module is it for it in above):
            return  # a module inside itself
        place = id(module), parent.index if parent else None, entry
        node = self._held.get(place)
        if node is None:
            node = self._held[place] = Node(module, len(self.nodes), parent)
            self.nodes.append(node)
            first = self.by_id.setdefault(id(module), node)
            if first is not node:
                first.twins = first.twins or [first]
                first.twins.append(node)
                node.twins = first.twins
        node.paths.append(path)
        node.names += entry is None
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
                entry = None if keyed else (id(container), key)
                self._visit(value, below, node, name, entry, above)
            elif not any(value is it for it in above):
                self._inside(value, below, node, name + ".", (*above, value))

    def _share(self):
        """Finds what one parent has in several places."""
        places: dict[tuple, list] = {}
        for (module, parent, entry), node in self._held.items():
            places.setdefault((module, parent), []).append((entry, node))
        for held in places.values():
            if len(held) == 1 and held[0][1].names < 2:
                continue
            shared = Shared()
            for entry, node in held:
                node.shared = shared
                if entry is None:
                    shared.attribute = node
                else:
                    shared.entries.append(node)
                    shared.lists.add(entry[0])
            held[0][1].parent.holds.append(shared)
