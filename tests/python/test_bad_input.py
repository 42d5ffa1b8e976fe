"""Bad input, each in a process of its own: it ends by a typed error, soon and in
little memory, never by a signal, and nothing of it is taken silently."""

import json
import os
import resource
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from compare import repeated

ROOT = Path(__file__).parents[2]
FAMILIES = ROOT / "tests" / "parity" / "families"

PRELUDE = f"""
import atexit, os, resource, sys
sys.path.insert(0, {str(ROOT / "python")!r})
import mlx.core as mx
import mlxterp
from mlxterp import _core, errors
from mlxterp import InterpretableModel

@atexit.register
def _():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(most * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)

def tiny():
    return InterpretableModel({str(FAMILIES / "gemma2")!r})

def demo():
    return InterpretableModel("demo")

def refused(work, *kinds):
    try:
        value = work()
        mx.eval(value) if isinstance(value, mx.array) else None
    except errors.MlxterpError as error:
        assert isinstance(error, kinds), (type(error), error)
        str(error).encode()  # can be printed
        return str(error)
    raise AssertionError(f"taken: {{value!r}}")
"""

# A gigabyte, and one more for Python, MLX and a model.
MOST_BYTES = 2_000_000_000
MOST_SECONDS = 10


def child(code, *arguments, env=None, input_bytes=0):
    """Runs `code` and returns what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1200,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **(env or {})},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-3000:]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < MOST_SECONDS
    assert int(done.stderr.splitlines()[-1]) < MOST_BYTES + 4 * input_bytes
    return done.stdout


HALF = r'"\ud83d"'


@pytest.mark.parametrize(
    "what",
    [
        "model.encode(text)",
        "model(text)",
        "model([text, 'a'])",
        "model.encode('a' + text + 'b')",
        "model.engine.model.encode(text)",
        "_core.Pass(model.engine.model, [text])",
        "model.engine.model.single_token(text)",
        "mlxterp.lens(model, text)",
        "mlxterp.patch(model, 'a b', text, mlxterp.metrics.logit(1))",
        "mlxterp.patch(model, 'a b', 'a c', mlxterp.metrics.logit(text))",
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(what):
    child(f"""
        model, text = demo(), {HALF}
        message = refused(lambda: {what}, errors.UsageError)
        assert "surrogate" in message, message
    """)


def test_text_is_never_cut_at_a_zero_byte():
    child(r"""
        model = demo()
        core = model.engine.model
        whole = core.encode("a\0b", False)
        assert core.decode(whole) == b"a\0b", whole
        assert len(whole) > len(core.encode("a", False))
        assert model.encode("a\0b")[-1] == core.encode("b", False)[-1]
        refused(lambda: core.find("layers.0.resid_post\0x"), errors.UnknownNameError)
        refused(lambda: core.match("layers.*\0"), errors.UnknownNameError)
        refused(lambda: core.call("embed\0", mx.array([1])), errors.UnknownNameError)
        refused(
            lambda: core.update([("embed.weight\0", mx.array([1.0]))]),
            errors.UnknownNameError,
        )
    """)


def test_names_that_are_no_text():
    child(rf"""
        model = tiny()
        core, text = model.engine.model, {HALF}
        for work in (
            lambda: core.find(text),
            lambda: core.match(text),
            lambda: core.call(text, mx.array([1])),
            lambda: core.update([(text, mx.array([1.0]))]),
            lambda: _core.Pass(core, [[1, 2]], [(text, lambda x: x)]),
        ):
            refused(work, errors.UnknownNameError)
    """)


def test_ids_out_of_range():
    child(r"""
        model = tiny()
        core, lazy = model.engine.model, lambda i: mx.array([i]) + 0
        for i in (10**6, 2**31 - 1, -1, -(2**31)):
            refused(lambda: model.model.embed(lazy(i)), errors.OutOfRangeError)
            refused(lambda: core.call("embed", lazy(i)), errors.OutOfRangeError)
            refused(lambda: core.forward(lazy(i)[None]), errors.OutOfRangeError)
        for i in (2**31, 2**40, 10**30):
            for ids in ([i], [[1], [i]], [1, i]):
                refused(lambda: model(ids), errors.OutOfRangeError)
                refused(lambda: mlxterp.lens(model, ids), errors.OutOfRangeError)
            refused(lambda: core.forward([[i]]), errors.OutOfRangeError)
            refused(lambda: core.forward([[-i]]), errors.OutOfRangeError)
            refused(
                lambda: mlxterp.patch(
                    model, [1, 2], [1, 3], mlxterp.metrics.logit(1), layers=[i]
                ),
                errors.OutOfRangeError,
            )
            refused(
                lambda: mlxterp.patch(model, [1, 2], [1, 3], mlxterp.metrics.logit(i)),
                errors.OutOfRangeError,
            )
    """)


def test_a_norm_of_another_width():
    child(r"""
        model = tiny()
        for width in (1, 3, 1000):
            for part in ("ln_final", "layers.0.ln1"):
                refused(
                    lambda: model.engine.model.call(part, mx.ones((1, 2, width))),
                    errors.UsageError,
                )
        refused(
            lambda: model.engine.model.call("ln_final", mx.array(1.0)),
            errors.UsageError,
        )
    """)


def test_updates_that_are_no_weights():
    child(r"""
        model = tiny()
        core = model.engine.model
        name, weight = core.parameters()[0]
        before = mx.array(weight)
        for bad in (
            weight.astype(mx.float16),
            weight.astype(mx.int32),
            mx.full(weight.shape, float("nan")),
            mx.full(weight.shape, float("inf")),
            weight * float("nan"),
            weight[None],
        ):
            other, fine = core.parameters()[1]
            message = refused(
                lambda: core.update([(other, fine * 2), (name, bad)]),
                errors.UsageError,
            )
            assert name in message
            now = dict(core.parameters())
            assert mx.array_equal(now[name], before)
            assert mx.array_equal(now[other], fine)
        core.update([(name, weight * 2)])
        assert mx.array_equal(dict(core.parameters())[name], before * 2)
    """)


def test_files_that_unpack_to_far_more(tmp_path):
    bomb = tmp_path / "lens.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("translators_0_weight.npy", "w", force_zip64=True) as out:
            for _ in range(800):
                out.write(bytes(1_000_000))
    (tmp_path / "lens.json").write_text('{"num_layers": 1, "hidden_dim": 14142}')
    child(
        r"""
        path = sys.argv[1]
        refused(lambda: _core.TunedLens.load(path), errors.BadDataError)
        refused(lambda: mlxterp.TunedLens.load(path), errors.BadDataError)
        """,
        tmp_path / "lens",
        input_bytes=bomb.stat().st_size,
    )


def test_pipes_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "pipe.json").write_text('{"num_layers": 1, "hidden_dim": 4}')
    os.mkfifo(tmp_path / "model.gguf")
    child(
        r"""
        folder = sys.argv[1]
        kinds = errors.IoError, errors.BadDataError, errors.UsageError
        for path in (folder + "/model.gguf", "/dev/zero", folder + "/pipe"):
            refused(lambda: InterpretableModel(path), *kinds)
            refused(lambda: _core.TunedLens.load(path), *kinds)
            refused(lambda: mlxterp.TunedLens.load(path), *kinds)
        """,
        tmp_path,
    )


def test_a_branch_of_the_cache_that_is_a_pipe(tmp_path):
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    os.mkfifo(refs / "main")
    child(
        """
        message = refused(lambda: InterpretableModel("org/name"), errors.IoError)
        assert "a pipe" in message, message
        """,
        env={"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )


WRAPPED = """
import mlx.nn as nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = [nn.Linear(8, 8) for _ in range(2)]

    def __call__(self, x):
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h)
        return h
"""


def test_infinities_from_an_intervention():
    child(WRAPPED + textwrap.dedent(r"""
        model = InterpretableModel(Small())
        for bad in (float("inf"), float("-inf"), float("nan")):
            def run():
                with model.trace(
                    [[1, 2, 3]], interventions={"layers.1": lambda x: x * 0 + bad}
                ):
                    return model.output.save()
            message = refused(run, errors.UsageError)
            assert "layers.1" in message, message
    """))


def test_the_locale_says_nothing(tmp_path):
    """A float of the metadata is the same where a comma is the decimal point."""
    code = r"""
        import locale
        if sys.argv[1] == "comma":
            locale.setlocale(locale.LC_NUMERIC, sys.argv[2])
            assert locale.localeconv()["decimal_point"] == ","
        model = InterpretableModel(sys.argv[3])
        logits = model([[3, 5, 7]])
        mx.eval(logits)
        print(logits.tolist())
    """
    name, env = "de_DE.UTF-8", {}
    if sys.platform != "darwin":  # few machines have one: see decimal_comma.h
        folder = tmp_path / "comma"
        folder.mkdir()
        (folder / "LC_NUMERIC").write_bytes(
            b"\x14\x11\x03\x20\x06\0\0\0\x20\0\0\0\x22\0\0\0\x24\0\0\0\x28\0\0\0"
            b"\x2c\0\0\0\x30\0\0\0,\0.\0\x03\x03\0\0,\0\0\0.\0\0\0UTF-8\0"
        )
        name, env = "comma", {"LOCPATH": str(tmp_path)}
    models = [FAMILIES / "gemma2", ROOT / "tests" / "parity" / "gguf" / "gemma2.gguf"]
    for model in models:
        plain = child(code, "plain", name, model, env=env)
        assert plain.startswith("[[[") and len(plain) > 100
        told = child(code, "comma", name, model, env=env)
        assert repeated(json.loads(told), json.loads(plain))


def test_setters_take_what_fits_only(tmp_path):
    """Every attribute of a bound class that can be set, whatever it is given."""
    child(
        r"""
        made = {
            "TunedLens": lambda: _core.TunedLens(2, 4),
            "Metric": lambda: _core.logit(1),
        }
        uses = {
            "TunedLens": lambda it: (
                it(mx.ones((1, 4)), 0),
                it.save(sys.argv[1], True),
                it.layers,
            ),
            "Metric": lambda it: mlxterp.patch(model, [1, 2], [1, 3], it),
        }
        bad = [
            None, [], {}, "a", "", 1.5, object(), [None], [1], [[]],
            mx.zeros((2,)), [mx.zeros((4, 4))], [mx.zeros((4,))] * 3,
            [mx.zeros((4, 5))] * 2, [mx.zeros((4,), mx.int32)] * 2,
            [mx.zeros((4, 4)), mx.zeros((4,))], [mx.array(1.0)] * 2,
        ]
        model, seen = tiny(), 0
        for name, bound in vars(_core).items():
            if not isinstance(bound, type):
                continue
            for field, attribute in vars(bound).items():
                if not getattr(attribute, "fset", None):
                    continue
                it = made[name]()
                for value in bad:
                    def work():
                        setattr(it, field, value)
                    refused(work, errors.UsageError)
                    uses[name](it)
                    seen += 1
        assert seen == 3 * len(bad), seen
        metric = _core.logit(1)
        for position in (2, -3, 10**30, -(10**30)):
            metric.position = position
            refused(lambda: uses["Metric"](metric), errors.OutOfRangeError)
        """,
        tmp_path / "lens",
    )


def test_paths_that_are_none(tmp_path):
    child(
        r"""
        folder = sys.argv[1]
        kinds = errors.UsageError, errors.IoError
        lens = mlxterp.TunedLens(2, 4)
        page = lambda path: mlxterp.visualization.save_interactive_attention(
            {0: mx.ones((1, 2, 2)) / 2}, ["a", "b"], path
        )
        model = tiny()
        os.mkfifo(folder + "/pipe")
        none = ["", ".", "/", "a\0b", folder + "/x\0", "\ud83d", "/dev/null/a/b",
                "x" * 5000, folder + "/nothing/here"]
        for path in none + ["..", folder, folder + "/" + "y" * 300, folder + "/pipe"]:
            for work in (
                lambda: mlxterp.TunedLens.load(path),
                lambda: _core.TunedLens.load(path),
                lambda: InterpretableModel(path),
                lambda: _core.Model.load(path),
            ):
                refused(work, *kinds, errors.BadDataError)
        for path in none:
            refused(lambda: lens.save(path), *kinds)
        for path in none + ["..", folder, folder + "/" + "y" * 300, folder + "/pipe"]:
            refused(lambda: page(path), *kinds)
        assert os.listdir(folder) == ["pipe"]
        """,
        tmp_path,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for what is resident")
def test_loading_again_and_again_keeps_nothing():
    """Random keys and parameters of models that are gone go with them: the
    resident memory of 200 loads grows by less than 20 kB each."""
    child(
        r"""
        import gc

        def resident():
            gc.collect()
            mx.clear_cache()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

        def load(times):
            for _ in range(times):
                _core.Model.load(sys.argv[1])

        load(40)  # until allocators and caches have what they keep
        before = resident()
        load(200)
        grown = resident() - before
        assert grown < 200 * 20_000, grown
        """,
        FAMILIES / "gemma2",
    )
