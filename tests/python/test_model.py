"""Inputs, tokens and the model object itself."""

import inspect
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from compare import repeated
from families import build, ids
from mlxterp import (
    InterpretableModel,
    OutOfRangeError,
    UnknownNameError,
    UsageError,
    interventions,
)
from mlxterp.core import (
    ModuleProxy,
    ModuleResolver,
    find_layer_key_pattern,
    normalize_layer_key,
)


class Letters:
    """A tokenizer of one id for each character."""

    bos_token_id = 1
    vocab_size = 96

    def encode(self, text):
        return [ord(it) % 96 for it in text]

    def decode(self, ids):
        return "".join(chr(it + 96 if it < 32 else it) for it in ids)


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(build("llama"), Letters())


@pytest.mark.parametrize(
    "inputs",
    ["abc", ["abc"], [1, 2, 3], [[1, 2, 3]], (1, 2, 3), [np.int64(1), 2, 3]]
    + [np.array([1, 2, 3]), np.array([[1, 2, 3]])],
)
def test_inputs(model, inputs):
    with model.trace(inputs) as trace:
        out = model.output.save()
    assert out.shape == (1, 3, 96) and trace.lengths == [3]
    wanted = model(mx.array([[1, 2, 3]]))
    assert repeated(out, wanted)


def test_arrays_as_inputs(model):
    for x in (mx.array([1, 2, 3]), mx.array([[1, 2, 3]])):
        with model.trace(x) as trace:
            assert model.output.shape == (1, 3, 96)
        assert trace.input_shape == (1, 3)


def test_a_batch_of_texts(model):
    """Upstream's defect 6: the last position of a short text was padding."""
    with model.trace(["abcdef", "abc"]) as trace:
        out = model.output.save()
    assert trace.lengths == [6, 3] and out.shape == (2, 6, 96)
    with model.trace("abc"):
        alone = model.output.save()
    assert mx.abs(out[1, 2] - alone[0, -1]).max() < 1e-5


@pytest.mark.parametrize(
    "inputs",
    ["", [], [[]], [[1], []], ["a", ""], [1, "a"], [1.5], [[1], 2], [-1], None]
    + [3, {"a": 1}, object(), [None], mx.array(3), mx.zeros((0,)), [[[1]]]],
)
def test_inputs_that_make_no_sense(model, inputs):
    with pytest.raises(UsageError):
        with model.trace(inputs):
            pass


def test_tokens_the_model_does_not_have(model):
    for inputs in ([96], [[1, 2], [3, 1000]]):
        with pytest.raises(OutOfRangeError, match="not among the 96"):
            with model.trace(inputs):
                pass
    with model.trace([95]):
        assert model.output.shape == (1, 1, 96)


def test_text_needs_a_tokenizer():
    plain = InterpretableModel(build("llama"))
    for inputs in ("abc", ["abc"]):
        with pytest.raises(ValueError, match="tokenizer"):
            with plain.trace(inputs):
                pass
    for use in (
        lambda: plain.encode("a"),
        lambda: plain.decode([1]),
        lambda: plain.encode_batch(["a"]),
        lambda: plain.token_to_str(1),
        lambda: plain.to_str_tokens("a"),
    ):
        with pytest.raises(ValueError, match="no tokenizer"):
            use()
    assert plain.vocab_size is None


def test_tokens(model):
    assert model.encode("abc") == [1, 2, 3]
    assert model.decode([1, 2, 3]) == model.decode(mx.array([1, 2, 3])) == "abc"
    assert model.encode_batch(["a", "bc"]) == [[1], [2, 3]]
    assert model.token_to_str(2) == "b"
    assert model.to_str_tokens("bc") == ["b", "c"]
    assert model.to_str_tokens("bc", prepend_bos=True) == ["a", "b", "c"]
    assert model.to_str_tokens("ab", prepend_bos=True) == ["a", "b"]
    assert model.to_str_tokens(mx.array([[2, 3], [1, 1]])) == ["b", "c"]
    assert model.to_str_tokens([2]) == ["b"]
    assert model.vocab_size == 96
    model.tokenizer, kept = ["x"] * 7, model.tokenizer
    assert model.vocab_size == 7
    model.tokenizer = kept


def test_it_looks_as_upstreams(model):
    assert repr(model) == (
        "InterpretableModel(\n  model=Model,\n  layers=3,\n  tokenizer=✓\n)"
    )
    assert repr(model.layers) == "LayerListProxy(length=3)"
    assert [repr(it) for it in model.layers] == [
        f"ModuleProxy(layers.{i})" for i in range(3)
    ]
    assert len(model.layers[1:]) == 2


def test_what_the_model_has_is_there(model):
    module = model.model
    assert model.named_modules()[0] == ("", module)
    assert len(model.named_modules()) == 43
    assert model.parameters() == module.parameters()
    assert model.trainable_parameters() == module.trainable_parameters()
    assert model.args is module.args
    assert isinstance(model.embed_tokens, ModuleProxy)
    x = ids()
    assert mx.array_equal(model.embed_tokens(x), module.model.embed_tokens(x))
    assert model.layers[0].self_attn.n_heads == 4
    assert mx.array_equal(model.norm.weight, module.model.norm.weight)
    assert model.train() is model and module.training
    assert model.eval() is model and not module.training
    with model.trace(x):
        assert model.embed_tokens.output.shape == (1, 6, 32)
        assert model.input.shape == (1, 6)
        assert model["layers.1.mlp_out"].shape == (1, 6, 32)
    with pytest.raises(UnknownNameError):
        model["layers.1.mlp_in"]
    model.layers[0].self_attn.marked = 7
    assert module.layers[0].self_attn.marked == 7


def test_something_that_is_no_model():
    with pytest.raises((UsageError, ImportError, OSError, ValueError, TypeError)):
        InterpretableModel("/nothing/here")


def test_the_resolver():
    module = build("llama")
    found = ModuleResolver(module)
    assert found.get_embedding_layer() is module.model.embed_tokens
    assert found.get_embedding_path() == "model.embed_tokens"
    assert found.get_final_norm() is module.model.norm
    assert found.get_final_norm_path() == "model.norm"
    tied = found.get_output_projection()
    assert tied == (module.model.embed_tokens, "model.embed_tokens", True)
    assert found.get_lm_head() is module.model.embed_tokens
    untied = build("llama", tie_word_embeddings=False)
    assert ModuleResolver(untied).get_output_projection() == (
        untied.lm_head,
        "lm_head",
        False,
    )
    with pytest.warns(UserWarning, match="no 'nowhere'"):
        other = ModuleResolver(module, norm_path="nowhere").get_final_norm()
    assert other is module.model.norm
    own = ModuleResolver(module, norm_path="model.layers.0.input_layernorm")
    assert own.get_final_norm() is module.model.layers[0].input_layernorm
    old = found.get_final_norm()
    module.model.norm = module.model.layers[0].input_layernorm
    assert found.get_final_norm() is old
    found.clear_cache()
    assert found.get_final_norm() is module.model.norm
    assert len(ModuleResolver.EMBEDDING_PATHS) == 9
    assert len(ModuleResolver.NORM_PATHS) == 7
    assert len(ModuleResolver.LM_HEAD_PATHS) == 5


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "mamba2", "gemma3_text"])
def test_the_resolver_finds_other_families(family):
    found = ModuleResolver(build(family))
    assert found.get_embedding_layer() is not None
    assert found.get_final_norm() is not None
    assert found.get_lm_head() is not None


def test_layer_keys():
    assert normalize_layer_key("model.model.layers.0") == "layers.0"
    assert normalize_layer_key("model.norm") == "norm"
    assert normalize_layer_key("layers.0") == "layers.0"
    keys = {"model.model.layers.1.mlp": 0, "model.h.0": 0, "a.b.layers.2": 0}
    assert find_layer_key_pattern(keys, 1, "mlp") == "model.model.layers.1.mlp"
    assert find_layer_key_pattern(keys, 0) == "model.h.0"
    assert find_layer_key_pattern(keys, 2) == "a.b.layers.2"
    assert find_layer_key_pattern(keys, 5) is None


def test_signatures_are_upstreams():
    """Its arguments, by name, position and default; ours come behind."""
    import mlxterp
    from mlxterp import core
    from mlxterp.compat import v01

    wanted = {
        mlxterp.InterpretableModel: "model tokenizer=None layer_attr='layers' "
        "embedding_path=None norm_path=None lm_head_path=None",
        mlxterp.InterpretableModel.trace: "self inputs interventions=None",
        mlxterp.collect_activations: "model inputs layers=None normalize_keys=True",
        v01.replace_with: "value align='end'",
        v01.clamp: "min_val=None max_val=None",
        v01.noise: "std=0.1",
        core.Trace: "model_forward inputs tokenizer=None interventions=None "
        "interpretable_model=None",
        core.OutputProxy: "value name",
        core.ModuleProxy: "module name",
        core.LayerListProxy: "layers base_name='layers' model_ref=None attr_path=None",
        core.ModuleResolver: "model embedding_path=None norm_path=None "
        "lm_head_path=None",
        core.find_layer_key_pattern: "activations layer_idx component=None",
        core.normalize_layer_key: "key",
        core.ActivationCache.get: "self name",
        mlxterp.InterpretableModel.to_str_tokens: "self input prepend_bos=False",
    }
    for thing, names in wanted.items():
        found = inspect.signature(thing).parameters.values()
        for it, theirs in zip(found, names.split()):
            name, _, default = theirs.partition("=")
            assert it.name == name
            if default:
                assert repr(it.default) == default
            else:
                assert it.default is inspect.Parameter.empty
        for extra in list(found)[len(names.split()) :]:
            assert extra.default is not inspect.Parameter.empty
    assert set(core.__all__) == {
        *("ModuleProxy OutputProxy LayerListProxy TraceContext Trace".split()),
        *("zero_out scale add_vector replace_with clamp noise".split()),
        *("InterventionComposer ActivationCache collect_activations".split()),
        *("ModuleResolver normalize_layer_key find_layer_key_pattern".split()),
    }


def test_top_level_names():
    import mlxterp

    for name in "zero_out scale add_vector replace_with clamp noise compose".split():
        assert hasattr(interventions, name)
    assert interventions.compose is mlxterp.InterventionComposer
    declared = (Path(__file__).parents[2] / "CMakeLists.txt").read_text()
    assert f"VERSION {mlxterp.__version__}\n" in declared
    assert not mlxterp.__version__.startswith("0.1.")  # the one in pure Python
    with pytest.raises(AttributeError, match="no attribute"):
        mlxterp.nonsense


def test_importing_it_imports_no_more_than_mlx():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'python')!r})\n"
        "import mlxterp\n"
        "heavy = {'mlx_lm', 'transformers', 'torch', 'matplotlib', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_is_called_with_whatever_it_can_be_traced_with():
    model = InterpretableModel("demo")
    ids = model.encode("Hello world")
    assert repeated(model("Hello world"), model(mx.array([ids])))
    assert repeated(model(ids), model([ids]))
    wrapped = InterpretableModel(build("llama"))
    assert repeated(wrapped([1, 2]), wrapped(mx.array([[1, 2]])))


def test_tokens_of_several_texts():
    model = InterpretableModel("demo")
    texts = ["Hello world", "Hi"]
    assert model.to_str_tokens(texts) == [model.to_str_tokens(t) for t in texts]


def test_what_is_no_model_or_not_there_is_told():
    import mlxterp

    with pytest.raises(UsageError, match="with a star"):
        InterpretableModel((build("llama"), None))
    with pytest.raises(ValueError, match="no/such"):
        InterpretableModel("/no/such")
    with pytest.raises(UsageError) as error:
        InterpretableModel("demo").trace([["x"] * 10_000]).__enter__()
    assert len(str(error.value)) < 300


def test_control_tokens_in_a_text_are_tokens_unless_said_otherwise():
    text = "<|im_start|>user"
    model = InterpretableModel("demo")
    plain = InterpretableModel("demo", parse_special=False)
    assert len(model.encode(text)) == 2 < len(plain.encode(text))
    for it in (model, plain):
        ids = it.encode(text)
        with it.trace(text) as trace:
            it.output.save()
        assert trace.input_shape == (1, len(ids))
        assert len(it.logit_lens(text, layers=[0])[0]) == len(ids)
