"""The Jacobian lens from Python: fitted, kept, read, and edits along it."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlxterp import (
    InterpretableModel,
    JacobianLens,
    collect,
    jacobian_space,
    lens,
    lens_directions,
    local_lens,
)
from mlxterp import interventions as iv
from mlxterp.errors import BadDataError, MlxterpError, OutOfRangeError, UsageError

ROWS = [[3, 9, 4, 12, 7, 5, 2], [8, 1, 6, 10, 11, 2]]


@pytest.fixture(scope="module")
def model():
    folder = Path(__file__).parents[1] / "parity/families/llama-gqa"
    return InterpretableModel(str(folder))


@pytest.fixture(scope="module")
def fitted(model):
    return JacobianLens.fit(model, ROWS, skip=1, tolerance=0)


def close(a, b, bound=1e-5):
    a, b = np.array(a), np.array(b)
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    assert np.abs(a - b).max() <= bound * max(np.abs(b).max(), 1e-9)


def test_a_fit_says_what_it_is_of(fitted):
    assert fitted.source.prompts == 2 and fitted.source.skip == 1
    assert fitted.source.rule == "full" and fitted.source.weights
    assert len(fitted.changes) == 1 and fitted.changes[0] > 0
    assert fitted[fitted.layers[0]].shape == (fitted.d_model, fitted.d_model)
    with pytest.raises(OutOfRangeError):
        fitted[99]


@pytest.mark.parametrize("name", ["lens.pt", "lens.safetensors"])
def test_files_keep_it(fitted, model, tmp_path, name):
    fitted.save(tmp_path / name)
    back = JacobianLens.load(tmp_path / name)
    assert back.layers == fitted.layers
    close(back[0], fitted[0], 1e-3)
    back.check_fits(model)
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(BadDataError):
        JacobianLens.load(tmp_path / "bad.pt")


def test_a_rule_of_ones_own(model, tmp_path):
    def fit(rule):
        return JacobianLens.fit(model, ROWS, skip=1, tolerance=0, rule=rule)

    held = fit("hold(attn.pattern,{ln1,ln2}.scale)")
    assert held.source.rule == "hold(attn.pattern, {ln1,ln2}.scale)"
    close(held[0], fit("frozen")[0])
    held.save(tmp_path / "lens.safetensors")
    back = JacobianLens.load(tmp_path / "lens.safetensors")
    assert back.source.rule == held.source.rule
    with pytest.raises(MlxterpError, match="resid_pre"):
        fit("hold(resid_pre)")
    with pytest.raises(MlxterpError, match="attn.patern"):
        fit("hold(attn.patern)")


def test_directions_need_no_fit(fitted, model):
    found = lens_directions(model, [3, 5], ROWS, skip=1)
    for layer in fitted.layers:
        close(found[layer], fitted.directions(model, [3, 5], layer))


def test_merged_halves_are_one(fitted, model):
    halves = [JacobianLens.fit(model, [row], skip=1) for row in ROWS]
    close(JacobianLens.merge(halves)[0], fitted[0])


def test_the_last_layer_reads_as_the_model(fitted, model):
    read = fitted.readout(model, ROWS[0])
    plain = lens(model, ROWS[0])
    assert read.layers[-1] == plain.layers[-1]
    close(read.logits[-1], plain.logits[-1])


def test_edits_along_it(fitted, model):
    site = "layers.0.resid_post"
    prompt = ROWS[0]

    def values(edits):
        return collect(model, [prompt], [site], interventions=edits).values[site]

    plain = values(None)
    v = fitted.directions(model, [3, 5], 0)
    swapped = values(fitted.swap(model, 3, 5, [0]))
    clamped = values(fitted.clamp(model, 3, 5, [0], prompt))
    close(swapped, clamped)
    ablated = values(fitted.ablate(model, [3, 5], [0]))
    assert np.abs(np.array(ablated @ v.T)).max() < 1e-4
    steered = values(fitted.steer(model, 3, [0], 2.0))
    unit = v[0] / mx.linalg.norm(v[0])
    along = np.array((steered - plain) @ unit)
    close(along, np.full_like(along, 2 * np.median(np.linalg.norm(plain, axis=-1))), 1e-4)
    with pytest.raises(UsageError):
        fitted.swap(model, 3, 3, [0])


def test_an_edit_as_the_shell_writes_it(fitted, model, tmp_path):
    fitted.save(tmp_path / "lens.safetensors")
    site = "layers.0.resid_post"
    text = f"lens_swap({tmp_path / 'lens.safetensors'}, id:3, id:5)"

    def values(edits):
        return collect(model, [ROWS[0]], [site], interventions=edits).values[site]

    close(values({site: iv.parse(text, model)}), values(fitted.swap(model, 3, 5, [0])))
    with pytest.raises(UsageError, match="of a model"):
        values({site: iv.parse(text)})


def test_a_prompt_has_a_lens_of_its_own(fitted, model, tmp_path):
    whole = JacobianLens.fit(model, [ROWS[0]], skip=1)
    found = local_lens(model, ROWS[0][:-1], [3, 5], jacobian=whole, skip=1)
    assert found.positions == [1, 2, 3, 4, 5]
    for layer in whole.layers:
        v = np.array(found.directions[layer])
        mean = np.array(whole.directions(model, [3, 5], layer))
        close(v.mean(1), mean)
        lengths = np.linalg.norm(v, axis=-1) * np.linalg.norm(mean, axis=-1)[:, None]
        close(found.cosines[layer], np.einsum("kpd,kd->kp", v, mean) / lengths)
    found.save(tmp_path / "local.safetensors")
    assert set(mx.load(str(tmp_path / "local.safetensors"))) >= {"local.0", "cosine.0"}
    assert not local_lens(model, ROWS[0], [3], layers=[0]).cosines
    with pytest.raises(UsageError):
        local_lens(model, ROWS[0], [3], skip=7)


@pytest.mark.parametrize("method", ["pursuit", "nnls"])
def test_an_activation_is_a_sum_of_directions(fitted, model, method):
    layer, at = fitted.layers[0], 3
    site = f"layers.{layer}.resid_post"
    h = np.array(collect(model, [ROWS[0]], [site]).values[site]).reshape(-1, fitted.d_model)[at]
    space = jacobian_space(
        model, ROWS[0], fitted, layers=[layer], positions=[at], k=5, method=method
    )
    code = space[layer, at]
    v = np.array(fitted.directions(model, code.tokens, layer), dtype=np.float64)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    c = np.array(code.coefficients)
    left = h - c @ v
    assert (c >= 0).all() and len(c) == 5
    assert abs(1 - (left @ left) / (h @ h) - code.explained[-1]) <= 1e-5
    if method == "nnls":  # nothing to gain, but by less than 0
        slope = v @ left / np.linalg.norm(h)
        assert (slope <= 1e-5).all() and (slope[c > 0] >= -1e-5).all()
    again = fitted.decompose(model, mx.array(h[None]), layer, k=5, method=method)[0]
    assert again.tokens == code.tokens
    close(again.coefficients, c)
    ahead = np.array(code.explained) - np.array(space.controls[layer])
    best = int(ahead.argmax()) + 1 if ahead.max() > 0 else 0
    assert space.occupancy(layer, at) == best
    with pytest.raises(UsageError, match="pursuit or nnls"):
        jacobian_space(model, ROWS[0], fitted, method="omp")
