"""Models with standing edits and with modules attached, by both engines."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from families import build
from mlxterp import (
    InterpretableModel,
    UnknownNameError,
    UsageError,
    ablate,
    attribute,
    lens,
    patch,
    scale,
    zero_out,
)

FOLDER = Path(__file__).parents[1] / "parity" / "families" / "llama-gqa"
ROWS = [[3, 4, 5, 6], [9, 8, 7, 3]]


@pytest.fixture(scope="module", params=["wrapped", "native"])
def model(request):
    if request.param == "native":
        return InterpretableModel(FOLDER)
    return InterpretableModel(build("llama"))


def near(a, b):
    return mx.abs(a - b).max().item() < 1e-5


def out(model, edits=None, x=ROWS):
    with model.trace(x, edits):
        return model.output.save()


EDIT = {"layers.0.mlp": scale(0.5), "layers.1.resid_pre": lambda x: x + 0.5}


def test_edits_that_stand(model):
    plain, wanted = out(model), out(model, EDIT)
    edited = model.edited(EDIT)
    assert near(out(edited), wanted) and not near(plain, wanted)
    assert near(edited(mx.array(ROWS)), wanted)
    assert near(out(model), plain) and not model.standing
    more = edited.edited({"layers.1": scale(2.0)})
    both = out(model, {**EDIT, "layers.1": scale(2.0)})
    assert near(out(more), both) and near(out(edited), wanted)
    assert near(out(edited, {"layers.1": scale(2.0)}), both)
    # Before those of a trace: the other way round is another value.
    first = model.edited({"layers.0": scale(2.0)})
    assert near(
        out(first, {"layers.0": lambda x: x + 1}),
        out(model, {"layers.0": lambda x: x * 2 + 1}),
    )


def test_everything_runs_on_an_edited_model(model):
    edited = model.edited(EDIT)
    with model.trace(ROWS, EDIT):
        wanted = model.layers[1].output.save()
    with edited.trace(ROWS) as trace:
        got = edited.layers[1].output.save()
        with pytest.raises(UsageError, match="only inside"):
            model.layers[0].output.save()  # another handle's trace
    assert near(got, wanted)
    _, cache = edited.run_with_cache(ROWS, "layers.1")
    assert near(cache["layers.1"], wanted)
    assert near(edited.run_with_hooks(ROWS), out(model, EDIT))
    assert trace.lengths == [4, 4]
    if not isinstance(model.model, nn.Module):  # C++ makes them, too
        said = lens(edited, ROWS[0], top_k=1).logits[-1].flatten()
        with model.trace(ROWS[0], EDIT):
            logits = model.output.save()
        assert near(said, logits[0].max(-1))
    with pytest.raises(UnknownNameError):
        model.edited({"layers.99": zero_out})
    with pytest.raises(UsageError, match="must be a function"):
        model.edited({"layers.0": 3})


def test_standing_edits_act_once_on_a_value(model):
    seen = []
    edited = model.edited({"layers.0": lambda x: seen.append(1) or x})
    with edited.trace(ROWS):
        edited.layers[1].output *= 2
        edited.output.save()
    assert seen == [1]


class Coder(nn.Module):
    """What a sparse autoencoder has."""

    def __init__(self, width):
        super().__init__()
        self.encode, self.decode = nn.Linear(width, 12), nn.Linear(12, width)
        self.acts = nn.ReLU()

    def __call__(self, x):
        return self.decode(self.acts(self.encode(x)))


@pytest.fixture(scope="module")
def coder(model):
    with model.trace(ROWS):
        width = model.layers[0].output.shape[-1]
    mx.random.seed(5)
    made = Coder(width)
    mx.eval(made.parameters())
    return made


@pytest.mark.parametrize("site", ["layers.1.resid_post", "layers.1", "layers.0.mlp_out"])
def test_what_an_attached_module_reads(model, coder, site):
    with model.trace(ROWS):
        x = model[site].save()
    plain = out(model)
    reading = model.attach(site, coder)
    with reading.trace(ROWS) as trace:
        acts = reading[f"{site}.attached.acts"].save()
        given = reading[f"{site}.attached.encode.input"].save()
        back = reading[f"{site}.attached"].save()
        logits = reading.output.save()
    assert near(given, x) and near(acts, coder.acts(coder.encode(x)))
    assert near(back, coder(x)) and near(logits, plain)
    assert f"{site}.attached" in trace.saved_values
    with pytest.raises(UnknownNameError):  # the plain one has it not
        model[f"{site}.attached"]
    assert near(reading(mx.array(ROWS)), plain)


def test_what_an_attached_module_replaces(model, coder):
    site = "layers.0.resid_post"
    replaced = model.attach(site, coder, "replace")
    wanted = out(model, {site: coder})
    assert near(out(replaced), wanted) and near(replaced(mx.array(ROWS)), wanted)
    inside = {f"{site}.attached.acts": lambda a: a * 3}
    wanted = out(model, {site: lambda x: coder.decode(coder.acts(coder.encode(x)) * 3)})
    assert near(out(replaced, inside), wanted)
    # Before what a pass edits at the site, behind what stood already.
    both = out(replaced, {site: scale(2.0)})
    assert near(both, out(model, {site: lambda x: coder(x) * 2}))
    before = model.edited({site: scale(2.0)}).attach(site, coder, "replace")
    assert near(out(before), out(model, {site: lambda x: coder(x * 2)}))
    assert near(before(mx.array(ROWS)), out(before)) and not near(out(before), both)


def test_what_it_misses_is_kept(model, coder):
    site = "layers.0.resid_post"
    kept = model.attach(site, coder, "replace_with_error", name="sae")
    assert near(out(kept), out(model))
    inside = {f"{site}.sae.acts": zero_out}
    wanted = {site: lambda x: x - coder(x) + coder.decode(mx.zeros((*x.shape[:2], 12)))}
    assert near(out(kept, inside), out(model, wanted))
    with kept.trace(ROWS):
        kept[f"{site}.sae.acts"] = 0.0
        set_ = kept.output.save()
    assert near(set_, out(model, wanted))
    with model.trace(ROWS):
        x = model[site].save()
    with kept.trace(ROWS, inside):
        assert near(kept[f"{site}.sae.error"], x - coder(x))
    without = {f"{site}.sae.error": zero_out}
    assert near(out(kept, without), out(model, {site: coder}))
    assert near(
        out(kept, {**without, **inside}),
        out(model, {site: lambda x: coder.decode(mx.zeros((*x.shape[:2], 12)))}),
    )
    with kept.trace(ROWS):
        assert near(kept[f"{site}.sae.acts"], kept[f"{site}.sae.decode.input"])


def test_several_and_functions(model, coder):
    a = model.attach("layers.0", coder, "read", name="one")
    b = a.attach("layers.1.resid_pre", lambda x: x * 2, "replace", name="twice")
    c = b.edited({"layers.0.one.acts": zero_out})
    wanted = out(model, {"layers.1.resid_pre": scale(2.0)})
    assert near(out(b), wanted) and near(out(c), wanted)
    with c.trace(ROWS):
        assert mx.all(c["layers.0.one.acts"] == 0)
        doubled = c["layers.1.resid_pre.twice"]
        assert near(doubled, c["layers.1.resid_pre.twice.input"] * 2)
    assert c.engine.match("layers.*.one.{acts,encode}") == [
        f"{c.engine.resolve('layers.0')}.one.{it}.output" for it in ("encode", "acts")
    ]


@pytest.mark.parametrize("by_position", [False, True])
def test_every_analysis_runs_on_it(by_position):
    """Natively a module of Python's is one of C++'s model: lens, sweeps and
    gradients see it and its sites."""
    model = InterpretableModel(FOLDER)
    mx.random.seed(5)
    coder = Coder(model.engine.config["d_model"])
    site = "layers.0.resid_post"
    sae = model.attach(
        site, coder, "replace_with_error", name="sae", by_position=by_position
    )
    acts = f"{site}.sae.acts"
    clean, corrupt = [3, 4, 5, 6, 8], [3, 9, 5, 6, 8]
    metric = "logit_diff(id:5,id:7)"
    with model.trace(clean):
        plain = model.output.save()
    assert near(lens(sae, clean).logits[-1], lens(model, clean).logits[-1])
    replaced = model.attach(site, coder, "replace")
    assert near(
        lens(replaced, clean, top_k=1).logits[-1].flatten(), out(replaced, x=[clean])[0].max(-1)
    )

    def read(edits):
        logits = out(sae, edits, [clean])[0, -1]
        return (logits[5] - logits[7]).item()

    def without(unit):
        return {acts: lambda a: mx.where(mx.arange(a.shape[-1]) == unit, 0, a)}

    name = "resid_post.sae.acts"
    ablated = ablate(sae, clean, metric, name, "neuron", "zero", layers=0)
    wanted = [read(without(unit)) for unit in range(12)]
    assert ablated.metric.shape == (12,) and len(set(wanted)) > 2
    assert mx.abs(ablated.metric - mx.array(wanted)).max().item() < 1e-5
    with sae.trace(corrupt):
        other = sae[acts].save()
    patched = patch(sae, corrupt, clean, metric, name, "pos", layers=0)
    for pos in range(5):

        def put(a, pos=pos):
            at = (mx.arange(5) == pos)[None, :, None]
            return mx.where(at, other, a)

        assert abs(patched.metric[pos].item() - read({acts: put})) < 1e-5
    found = attribute(sae, corrupt, clean, metric, name, "pos", layers=0)[name]
    assert abs(found.clean - patched.clean) < 1e-5
    assert mx.abs(found.metric - found.corrupt).max().item() > 0
    assert near(out(model, x=[clean]), plain)


def test_what_cannot_be_attached(model, coder):
    with pytest.raises(UsageError, match="is not one of read, replace"):
        model.attach("layers.0", coder, "write")
    with pytest.raises(UsageError, match="a module or a function"):
        model.attach("layers.0", 3)
    with pytest.raises(UsageError, match="no name for sites"):
        model.attach("layers.0", lambda x: x, name="a.b")
    with pytest.raises(UnknownNameError):  # only where it is added
        model.attach("layers.0", coder, "replace")["layers.0.attached.error"]
    with pytest.raises(UnknownNameError):
        model.attach("layers.99", coder)
    with pytest.raises(UsageError, match="already"):
        model.attach("layers.0", coder).attach("layers.0", coder)
    narrow = model.attach("layers.0", lambda x: x[..., :3], "replace", name="narrow")
    with pytest.raises(UsageError, match="layers.0"):
        out(narrow)
    for mode in ("replace", "replace_with_error"):  # and not broadcast
        with pytest.raises(UsageError, match="expected"):
            out(model.attach("layers.0", lambda x: x.mean(1, keepdims=True), mode))
    with pytest.raises(UsageError, match="NaN"):
        bad = {"layers.0.attached.acts": lambda a: a * float("nan")}
        out(model.attach("layers.0", coder), bad)
    assert near(out(model), out(model))
