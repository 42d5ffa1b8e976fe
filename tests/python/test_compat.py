"""Other tools' laxer habits live in `compat`, and `strict=False` brings them."""

import ast
from pathlib import Path

import mlx.core as mx
import mlxterp
import pytest
from compare import repeated
from families import build, ids
from mlxterp import InterpretableModel, UnknownNameError, UsageError
from mlxterp.compat import v01

PACKAGE = Path(mlxterp.__file__).parent
#: What switches: the package's root shows `patching`, the model has the mixins,
#: `mlxterp.sae` is a module of mlxterp 0.1.
SWITCHES = {"__init__.py", "model.py", "sae.py"}


def imported(path):
    """The modules of the package that a file imports, as paths below it."""
    here = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            module = (node.module or "").removeprefix("mlxterp.").split(".")
            for alias in node.names:
                yield ".".join([*base, *filter(None, module), alias.name])
        elif isinstance(node, ast.Import):
            yield from (it.name.removeprefix("mlxterp.") for it in node.names)


def test_nothing_else_imports_compat():
    found, files = set(), 0
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        files += 1
        if name.startswith("compat/"):
            continue
        if any(it.split(".")[0] == "compat" for it in imported(path)):
            found.add(name)
    assert files > 50 and found == SWITCHES
    # And only it is told whether a model is strict.
    for path in PACKAGE.rglob("*.py"):
        if "strict=" in path.read_text("utf-8"):
            name = path.relative_to(PACKAGE).as_posix()
            assert name.startswith("compat/") or name in {*SWITCHES, "core/habits.py"}


@pytest.fixture(scope="module")
def models():
    module = build("llama")
    return InterpretableModel(module), InterpretableModel(module, strict=False)


def test_the_switch(models):
    strict, loose = models
    assert strict.strict and not loose.strict
    assert strict.interventions is mlxterp.interventions
    assert loose.interventions is v01.interventions
    assert loose.edited({}).interventions is v01.interventions


def test_names_that_mean_nothing(models):
    strict, loose = models
    edits = {"layers.99": mlxterp.zero_out}
    with pytest.raises(UnknownNameError), strict.trace(ids(), edits):
        pass
    with loose.trace(ids(), edits):
        out = loose.output.save()
    assert repeated(out, strict(ids()))
    assert loose.layers[0].output.save() is None
    with pytest.raises(UsageError, match="only inside"):
        strict.layers[0].output.save()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (0.5, lambda x: mx.full(x.shape, 0.5)),
        ("zero_out", lambda x: x * 0),
        ("scale(2)", lambda x: x * 2),
        (mx.ones((1, 2, 32)), v01.replace_with(mx.ones((1, 2, 32)))),
    ],
)
def test_what_stands_for_an_intervention(models, given, wanted):
    strict, loose = models
    with loose.trace(ids(), {"layers.1": given}):
        ours = loose.output.save()
    with strict.trace(ids(), {"layers.1": wanted}):
        theirs = strict.output.save()
    assert mx.allclose(ours, theirs, atol=1e-5)
    assert not mx.allclose(ours, strict(ids()), atol=1e-3)
    with pytest.raises(UsageError, match="must be a function"):
        with strict.trace(ids(), {"layers.1": given}):
            pass


def test_what_even_the_lax_refuse(models):
    with pytest.raises(UsageError, match="must be a function"):
        with models[1].trace(ids(), {"layers.1": None}):
            pass
    with pytest.raises(UsageError):
        with models[1].trace(ids(), {"layers.1": "nonsense"}):
            pass
