"""One pass of a wrapped module: what its modules' calls step into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import mlx.core as mx

from .._core import evaluate
from ..errors import UsageError
from ._attention import SITES, Attention, Softmax, by_head, turned
from ._checks import EMBEDDINGS, check_ids
from ._edits import Edit, apply
from ._nodes import Node, Shared, Tree
from ._patches import stepped_in
from ._residual import SHARES
from .base import handle

_array = mx.array


def first_array(values):
    """The place (key, array) of the first mx.array directly in a tuple, list,
    dict or dataclass; (None, None) where there is none."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, (tuple, list)):
        items = enumerate(values)
    elif dataclasses.is_dataclass(values):
        items = vars(values).items()
    else:
        return None, None
    for key, value in items:
        if isinstance(value, _array):
            return key, value
    return None, None


def first(result) -> mx.array | None:
    """The array that a call returned, or the first of those it returned."""
    return result if isinstance(result, _array) else first_array(result)[1]


def with_item(values, key, value):
    """A copy of such a container with one item replaced."""
    if isinstance(values, dict):
        return type(values)({**values, key: value})
    if dataclasses.is_dataclass(values):
        return dataclasses.replace(values, **{key: value})
    items = [*values[:key], value, *values[key + 1 :]]
    named = hasattr(values, "_fields")
    return type(values)(*items) if named else type(values)(items)


class Plan:
    """Where the edits of a pass act, by the index of the node they act in."""

    def __init__(self):
        self.all: list[Edit] = []
        self.inputs: dict[int, list[Callable]] = {}
        self.outputs: dict[int, list[Callable]] = {}
        #: By node index and attention site.
        self.attention: dict[int, dict[str, list[Edit]]] = {}
        #: By node index and number of the norm or rope call inside it.
        self.event_inputs: dict[tuple[int, int], list[Callable]] = {}
        self.event_outputs: dict[tuple[int, int], list[Callable]] = {}
        #: What nodes were given that edits inside them ask for.
        self.entered: dict[int, mx.array | None] = {}


class WrappedPass:
    """The `Pass` of the contract. Handles hold lazy arrays; `finish` drops
    them. It belongs to the thread that made it, as MLX's streams do."""

    def __init__(self, engine, tree: Tree, plan: Plan, lengths: list[int], ends=None):
        self.lengths = lengths
        self._ends = ends  # of the ids, where they are known
        self.output: mx.array | None = None
        self._engine, self._tree, self._plan = engine, tree, plan
        self._by_id = tree.by_id
        self._stack: list[Node] = []
        # (input, output) of a node's last call, by its index, and of those
        # before it, as they were then: a module may change them in place. Behind
        # them the arrays themselves, to be known again.
        self._calls: dict[int, tuple] = {}
        self._earlier: dict[int, list[tuple]] = {}
        # Norm and rope calls of the node's last run: (role, input, output, and
        # the output itself).
        self._events: dict[int, list[tuple]] = {}
        self._attention: dict[int, Attention | Softmax] = {}
        self._attended: set[int] = set()  # nodes of `_attention`
        self._fused: set[int] = set()
        self._empty: set[int] = set()  # nodes that returned no array
        self._order: list[int] = []  # of the calls, for `keys`
        # Calls of what one parent has in several places, in its last run, and
        # the nodes that these leave unclear.
        self._turns: dict[Shared, int] = {}
        self._unclear: dict[Node, int] = {}
        self._inputs: mx.array | None = None
        self._given: mx.array | None = None  # what the module was called with
        self._finished = False

    # Building

    def build(self, classes, module, inputs: mx.array):
        """Runs the module; nothing is evaluated."""
        self._inputs, self._given = inputs, handle(inputs)
        with stepped_in(classes, self):
            result = module(self._given)
        self._end_turns(list(self._turns))
        if 0 not in self._calls:  # its class cannot be stepped in front of
            self._calls[0] = (inputs, first(result)) * 2
        output = self._calls[0][1]
        if output is None:
            raise UsageError(
                f"{type(module).__name__} returned no mx.array, so there is "
                "no output to trace."
            )
        self.output = output
        self._order = list(self._calls)
        for edit in self._plan.all:
            self._check_clear(self._parsed(edit.site)[0])
            if not edit.fired:
                raise UsageError(
                    f"The intervention on '{edit.site}' never acted: "
                    + self._why_absent(edit.site)
                )

    def call(self, module, original, args, kwargs):
        """A module's call, seen from `_patches`."""
        stack = self._stack
        node = self._by_id.get(id(module))
        # A subclass's super().__call__ is still the same call.
        if node is None or (stack and stack[-1].module is module):
            return original(module, *args, **kwargs)
        if node.twins or node.shared:
            node = self._turn(self._tree.called(module, stack))
        if node.holds:
            self._end_turns(node.holds)
        index, plan = node.index, self._plan

        x = first(args)
        if x is None:
            x = first(kwargs)
        event = None
        if node.role is not None and stack and x is not None:
            event = stack[-1].index, len(self._events.get(stack[-1].index, ()))
        if plan.inputs or plan.event_inputs:
            edited = self._edited(x, plan.inputs, plan.event_inputs, index, event)
            if edited is not x:
                args, kwargs = _replaced(args, kwargs, edited)
                x = edited
        if index in plan.entered:
            plan.entered[index] = handle(x)
        if isinstance(module, EMBEDDINGS) and x is not None:
            ends = self._ends if x is self._given else None
            check_ids(x, module, node.path, ends)
        if node.has_roles:
            self._events[index] = []
        entered = handle(x)

        stack.append(node)
        try:
            result = original(module, *args, **kwargs)
        finally:
            stack.pop()

        y = first(result)
        if plan.outputs or plan.event_outputs:
            edited = self._edited(y, plan.outputs, plan.event_outputs, index, event)
            if edited is not y:
                y = edited
                if isinstance(result, _array):
                    result = y
                else:
                    result = with_item(result, first_array(result)[0], y)
        if y is None:
            self._empty.add(index)
        before = self._calls.get(index)
        if before is not None:
            self._earlier.setdefault(index, []).append(before)
        left = handle(y)
        self._calls[index] = entered, left, x, y
        if event is not None and (events := self._events.get(event[0])) is not None:
            events.append((node.role, entered, left, y))
        return result

    def _turn(self, node: Node) -> Node:
        """Of a module in several places of its parent, that of this call."""
        if node.shared is None:
            return node
        turn = self._turns.get(node.shared, 0)
        self._turns[node.shared] = turn + 1
        return node.shared.at(turn)

    def _end_turns(self, of: list[Shared]):
        for shared in of:
            calls = self._turns.pop(shared, 0)
            for node in (*shared.entries, shared.attribute) if calls else ():
                if node is not None and shared.unclear(node, calls):
                    self._unclear[node] = calls

    def _unclear_at(self, node: Node | None) -> Node | None:
        """What it is in, or is, whose calls cannot be told apart."""
        while node is not None and node not in self._unclear:
            node = node.parent
        return node

    def _check_clear(self, node: Node):
        node = self._unclear and self._unclear_at(node)
        if node:
            raise UsageError(
                f"'{node.path}' is one {type(node.module).__name__} in several "
                f"places ({node.shared.places()}), called {self._unclear[node]} "
                "times: which call is which place is known only of a list whose "
                "entries are each called once."
            )

    def soften(self, original, x, axis=None, **more):
        """A call of `mx.softmax`: inside attention along the last of four or
        five axes it makes the pattern."""
        node = self._stack[-1] if self._stack else None
        if node is None or not node.attends or x.ndim not in (4, 5):
            return original(x, axis, **more)
        if axis not in (-1, x.ndim - 1) or node.index in self._fused:
            return original(x, axis, **more)
        edits = self._plan.attention.get(node.index, {})
        call = self._attention[node.index] = Softmax(handle(x))
        self._attended.add(node.index)
        if "scores" in edits:
            call.scores = apply(edits["scores"], call.scores)
            x = call.scores.reshape(x.shape)
        y = original(x, axis, **more)
        call.pattern = by_head(handle(y))
        if "pattern" in edits:
            call.pattern = apply(edits["pattern"], call.pattern)
            y = call.pattern.reshape(y.shape)
        return y

    def attend(self, original, q, k, v, *, scale, mask=None, sinks=None, **more):
        """A call of `mx.fast.scaled_dot_product_attention`."""
        if not self._stack:
            return original(q, k, v, scale=scale, mask=mask, sinks=sinks, **more)
        index = self._stack[-1].index
        edits = self._plan.attention.get(index)
        if edits:
            q = _turned_edit(edits.get("q", []) + edits.get("rot_q", []), q)
            k = _turned_edit(edits.get("k", []) + edits.get("rot_k", []), k)
            v = _turned_edit(edits.get("v", []), v)
        call = Attention(q, k, v, scale, mask, sinks)
        self._attention[index] = call
        self._fused.add(index)
        self._attended.add(index)
        if edits and ("scores" in edits or "pattern" in edits):
            if "scores" in edits:
                call.scores = apply(edits["scores"], call.scores)
            if "pattern" in edits:
                call.pattern = apply(edits["pattern"], call.pattern)
            z = call.mixed()
        else:
            z = original(q, k, v, scale=scale, mask=mask, sinks=sinks, **more)
        if edits:
            z = _turned_edit(edits.get("z", []), z)
        call.z = handle(z)
        return z

    @staticmethod
    def _edited(x, of_nodes, of_events, index: int, event):
        """A value behind the edits on it as a module's own, and as a norm's
        or rope's inside attention."""
        if x is None:
            return x
        if event is not None:
            x = apply(of_events.get(event, ()), x)
        return apply(of_nodes.get(index, ()), x)

    # Reading

    def value(self, site: str) -> mx.array:
        """The lazy value of a resolved site, of the last call where there
        were several. Raises UsageError where the pass never reached it, or
        it has been finished."""
        if self._finished and site == "output":
            return self.output
        self._check_open(site)
        node, tail = self._parsed(site)
        self._check_clear(node)
        if tail in ("input", "output"):
            call = self._calls.get(node.index)
            found = call[tail == "output"] if call else None
        elif tail in SHARES:
            found = self._engine.share(node, tail, self._inputs).read(self, node)
        else:
            found = self._attention_value(node, tail)
        if found is None:
            raise UsageError(f"There is no '{site}': {self._why_absent(site)}")
        return found

    def keys(self) -> list[str]:
        """As the contract says; they outlive `finish`."""
        keys = []
        for index in self._order:
            if index == 0 or self._unclear and self._unclear_at(self._tree.nodes[index]):
                continue
            key = "model." + self._tree.nodes[index].path
            if index not in self._empty:
                keys.append(key)
            if index in self._attended:
                keys.append(key + ".attention_weights")
        return keys

    def check(self, kept: Sequence[mx.array] = ()) -> None:
        _check(self._plan.all, kept)

    def finish(self, kept: Sequence[mx.array]) -> None:
        self._finished = True
        self._calls, self._earlier = {}, {}
        self._events, self._attention = {}, {}
        self._inputs = self._given = None
        edits, self._plan = self._plan.all, Plan()
        _check(edits, kept)

    # For `_places`, which learns from a pass

    def attending(self) -> list[Node]:
        """The modules that were seen to compute attention."""
        return [self._tree.nodes[index] for index in self._attention]

    def attention(self, node: Node) -> Attention | Softmax:
        return self._attention[node.index]

    def events(self, node: Node) -> list[tuple]:
        return self._events.get(node.index, [])

    def calls_of(self, node: Node) -> list[tuple]:
        """(input, output, and both arrays themselves) of each call."""
        last = self._calls.get(node.index)
        earlier = self._earlier.get(node.index, [])
        return earlier if last is None else [*earlier, last]

    def _attention_value(self, node: Node, tail: str):
        call = self._attention.get(node.index)
        if call is None:
            return None
        if tail in ("scores", "pattern"):
            return getattr(call, tail)
        place = self._engine.places(node, self, self._inputs).get(tail)
        if place is not None:
            return place.read(self, node)
        found = getattr(call, tail.removeprefix("rot_"))
        return None if found is None else turned(found)

    def _parsed(self, site: str) -> tuple[Node, str]:
        path, _, tail = site.rpartition(".")
        node = self._tree.by_path.get(path)
        if node is None:
            raise UsageError(f"The model had no '{path}' when this pass was run.")
        return node, tail

    def _check_open(self, site: str):
        if self._finished:
            raise UsageError(
                f"'{site}' was dropped when the trace ended: save() it inside."
            )

    def _why_absent(self, site: str) -> str:
        path, _, tail = site.rpartition(".")
        node = self._tree.by_path[path]
        name, kind = path or "the model", type(node.module).__name__
        if node.index not in self._calls:
            return f"{name} ({kind}) was not called in this pass."
        if tail in SITES:
            how = (
                "computes attention its own way"
                if node.index in self._attention
                else "does not itself call mx.fast.scaled_dot_product_attention"
            )
            return (
                f"{name} ({kind}) {how}, so nothing here is seen as its {tail}; "
                "its parts' inputs and outputs are."
            )
        return f"{name} ({kind}) was given and returned no mx.array here."


def _check(edits: list[Edit], kept: Sequence[mx.array] = ()):
    guards = [guard for edit in edits for guard in edit.guards]
    try:
        evaluate([*kept, *guards])
    except ValueError as error:
        # Inside mx.compile and mx.vmap nothing can be evaluated: the values
        # stay lazy parts of the user's function, and unchecked.
        if "function transformations" in str(error):
            return
        raise
    for edit in edits:
        edit.check()


def _turned_edit(edits: list[Edit], x: mx.array) -> mx.array:
    return turned(apply(edits, turned(x))) if edits else x


def _replaced(args, kwargs, x):
    key, found = first_array(args)
    if found is not None:
        return with_item(args, key, x), kwargs
    return args, with_item(kwargs, first_array(kwargs)[0], x)
