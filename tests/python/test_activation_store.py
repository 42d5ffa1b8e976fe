"""Activation stores from Python: of both engines, equal to what collect keeps."""

import json

import mlx.core as mx
import mlxterp
import numpy as np
import pytest
from compare import repeated
from mlxterp import ActivationStore, InterpretableModel
from mlxterp.errors import BadDataError, IoError, UnknownNameError, UsageError
from view_models import WordTokenizer, tiny_llama

VOCAB = 97
PROMPTS = [
    " ".join(f"w{(7 * i + j) % VOCAB}" for j in range(1 + i % 9)) for i in range(40)
]
SITES = ["layers.1.resid_post", "layers.0.attn.z"]


@pytest.fixture(scope="module")
def wrapped():
    return InterpretableModel(tiny_llama(), WordTokenizer(VOCAB))


@pytest.fixture(scope="module")
def demo():
    return InterpretableModel("demo")


def test_a_store_holds_what_collect_keeps(wrapped, tmp_path):
    kept = mlxterp.collect(wrapped, PROMPTS, SITES)
    store = mlxterp.collect(
        wrapped, PROMPTS, SITES, batch_size=3, shard_rows=50, store=tmp_path / "s"
    )
    assert len(store) == sum(kept.lengths) == 190
    assert sorted(store.sites) == sorted(kept.values)
    for site, value in kept.values.items():
        assert store[site].shape == value.shape
        assert repeated(store[site], value)
        assert repeated(store.read(site, 45, 107), value[45:107])  # over three files
        assert repeated(store.read(site, -5), value[-5:])
        assert store.read(site, 9, 3).shape[0] == 0
        assert store.tensors[site] == tuple(value.shape[1:])
    ids = [i for prompt in PROMPTS for i in wrapped.encode(prompt)]
    assert store["tokens"].tolist() == ids
    lengths = [0] * len(PROMPTS)
    places = zip(store["documents"].tolist(), store["positions"].tolist())
    for document, position in places:
        assert position == lengths[document]
        lengths[document] += 1
    assert lengths == kept.lengths
    assert store.manifest["rows"] == 190 and store.manifest["shard_rows"] == 50
    assert "190 rows" in repr(store)


def test_the_last_positions_and_half_precision(wrapped, tmp_path):
    store = mlxterp.collect(
        wrapped, PROMPTS, SITES[0], "last", store=tmp_path / "s", dtype=mx.float16
    )
    kept = mlxterp.collect(wrapped, PROMPTS, SITES[0], "last")
    value = store[SITES[0]]
    assert value.dtype == mx.float16 and len(store) == len(PROMPTS)
    assert np.allclose(np.array(value), np.array(kept.values[SITES[0]]), atol=1e-2)


def test_batches_are_all_rows_in_random_order(wrapped, tmp_path):
    store = mlxterp.collect(wrapped, PROMPTS, SITES, store=tmp_path / "s")
    how = {"batch_size": 32, "seed": 3, "buffer_rows": 64}
    for names, count in ((SITES, 2), ([], 5), (SITES[0], 1)):
        rows = []
        for batch in store.batches(names, **how):
            rows += batch.rows
            assert len(batch.values) == count
            expected = store[SITES[0]][mx.array(batch.rows)]
            assert mx.array_equal(batch.values[SITES[0]], expected)
        assert sorted(rows) == list(range(len(store))) and rows != sorted(rows)
    assert sum((it.rows for it in store.batches("tokens", **how)), []) == rows
    with pytest.raises(UnknownNameError, match="layers.9"):
        next(store.batches("layers.9.z"))


def test_interventions_are_in_it_and_in_the_manifest(wrapped, tmp_path):
    edits = {"layers.0.mlp_out": mlxterp.scale(0.0)}
    store = mlxterp.collect(
        wrapped, PROMPTS, SITES[0], interventions=edits, store=tmp_path / "s"
    )
    kept = mlxterp.collect(wrapped, PROMPTS, SITES[0], interventions=edits)
    assert repeated(store[SITES[0]], kept.values[SITES[0]])
    plain = mlxterp.collect(wrapped, PROMPTS, SITES[0]).values[SITES[0]]
    assert not repeated(store[SITES[0]], plain)
    assert store.manifest["edits"][0].startswith("layers.0.mlp_out=")
    with pytest.raises(UsageError, match="edits"):
        mlxterp.collect(wrapped, PROMPTS, SITES[0], store=tmp_path / "s", resume=True)


def test_other_edits_are_not_mixed_in(wrapped, tmp_path):
    def pushed(by):
        return {"layers.0.mlp_out": lambda x: x + by}

    how = {"sites": SITES[0], "store": tmp_path / "s"}
    store = mlxterp.collect(wrapped, PROMPTS, interventions=pushed(1.0), **how)
    assert " at 0x" not in store.manifest["edits"][0]
    again = mlxterp.collect(
        wrapped, PROMPTS, interventions=pushed(1.0), resume=True, **how
    )
    assert len(again) == len(store)
    with pytest.raises(UsageError, match="made otherwise: .* of document"):
        mlxterp.collect(
            wrapped, PROMPTS, interventions=pushed(2.0), resume=True, **how
        )


def test_a_file_of_documents(demo, tmp_path):
    texts = ["Hello world", "", "The Eiffel Tower is located in the city of"]
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps({"text": it}) + "\n" for it in texts))
    site = "layers.2.resid_post"
    how = {"length": 4, "batch_size": 2, "store": tmp_path / "s"}
    store = mlxterp.collect(demo, file, site, **how)
    row = 0
    for text in filter(None, texts):
        ids = demo.encode(text)
        for begin in range(0, len(ids), 4):
            window = ids[begin : begin + 4]
            with demo.trace([window]):
                value = demo.layers[2].output.save()
            assert repeated(store.read(site, row, row + len(window)), value[0])
            row += len(window)
    assert row == len(store)
    assert len(mlxterp.collect(demo, file, site, **how, resume=True)) == row


def test_what_is_wrong_is_said(wrapped, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(UsageError, match="store=FOLDER"):
        mlxterp.collect(wrapped, PROMPTS, SITES, length=4)
    with pytest.raises(UsageError, match="store=FOLDER"):
        mlxterp.collect(wrapped, tmp_path, SITES)
    with pytest.raises(UsageError, match="loaded itself"):
        mlxterp.collect(wrapped, tmp_path / "x.txt", SITES, store=folder)
    with pytest.raises(UsageError, match="no field 'lenght'"):
        mlxterp.collect(wrapped, PROMPTS, SITES, store=folder, lenght=4)
    with pytest.raises(IoError):
        ActivationStore(tmp_path / "nothing")
    mlxterp.collect(wrapped, PROMPTS, SITES, store=folder)
    with pytest.raises(UsageError, match="holds a store"):
        mlxterp.collect(wrapped, PROMPTS, SITES, store=folder)
    store = ActivationStore(folder)
    with pytest.raises(UnknownNameError, match="tokens"):
        store.read("z")
    with pytest.raises(UsageError, match="give a name"):
        store[3]
    with pytest.raises(UsageError, match="at least a batch|at least one"):
        store.batches(batch_size=0)
    (folder / "shard-00000.safetensors").write_bytes(b"broken")
    with pytest.raises(BadDataError):
        ActivationStore(folder).read("tokens")


def test_a_keyboard_interrupt_leaves_nothing_half_written(wrapped, tmp_path):
    def stop(what, done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mlxterp.collect(wrapped, PROMPTS, SITES, store=tmp_path / "s", progress=stop)
    assert not (tmp_path / "s").exists()
