"""nnterp's demo and nnsight's ways of writing a trace: the calls of its cells on
small models, against the model's sites."""

import mlx.core as mx
import pytest
from demo_models import close, tokenizer, words
from mlxterp import OutOfRangeError, UsageError
from mlxterp.compat.nnterp import (
    Prompt,
    StandardizedTransformer,
    TargetPrompt,
    collect_token_activations_batched,
    compute_next_token_probs,
    get_token_activations,
    logit_lens,
    patchscope_lens,
    repeat_prompt,
    run_prompts,
)
from mlxterp.compat.nnterp.interventions import patch_object_attn_lens
from test_two_engines import FOLDERS
from view_models import tiny_llama

TEXT, IDS = words(5, 9, 12), [5, 9, 12]
TEXTS = [words(5, 9), words(3, 4, 9)]


@pytest.fixture(scope="module", params=["gpt2", "llama-gqa", "wrapped"])
def model(request):
    if request.param == "wrapped":
        return StandardizedTransformer(
            tiny_llama(), tokenizer(), enable_attention_probs=True
        )
    return StandardizedTransformer(FOLDERS / request.param, tokenizer())


def test_what_it_is(model):
    with model.trace(TEXT):
        shape = model.layers_output[0].shape
        pattern = model.attention_probabilities[0].shape
    assert model.hidden_size == shape[-1] and model.num_layers == len(model.layers)
    assert model.num_heads == pattern[1] and model.vocab_size == 97
    assert model.dispatch() is model and model.supports_attention_probabilities


def test_modules_of_layers(model):
    with model.trace(TEXT) as tracer:
        out = model.attentions[1].output.save()
        read = model.mlps[1].input.save()
        inputs = model.mlps[1].inputs
        tracer.save("inputs", inputs[0][0].value)
        wrote = model.mlps_output[-1].save()
        after = model.layers_output[1].save()
        tracer.stop()
    with model.trace(IDS) as other:
        path = model.engine.part(1, "attn_out")
        wanted = other.value(f"{path}.output")
        other.save("wanted", wanted)
        before = model.layers_input[1].save()
        mixed = model.mlps_output[1].save()
    assert close(out, wanted) and inputs[1] == {}
    assert close(tracer.saved_values["inputs"], read)
    assert close(before + out + mixed, after)
    assert wrote.shape == after.shape
    with pytest.raises(OutOfRangeError):
        model.attentions[99]


def test_a_layer_in_place_of_another(model):
    with model.trace(TEXT):
        model.layers_output[1] = model.layers_output[0]
        edited = model.layers_output[1].save()
        first = model.layers_output[0].save()
        logits = model.logits.save()
    assert close(edited, first)
    with model.trace(TEXT, {"layers.1.resid_post": lambda x: first}):
        assert close(model.output.logits.save(), logits)


def test_in_place(model):
    with model.trace(TEXT):
        model.attentions[0].output[:] = 0
        model.layers_output[1][:, -1] = 0
        gone = model.layers_output[1].save()
        after = model.logits.save()
    with model.trace(TEXT):
        plain = model.logits.save()
    assert mx.abs(gone[:, -1]).max().item() == 0
    assert not close(after, plain)


def test_patterns(model):
    with model.trace(TEXT):
        pattern = model.attention_probabilities[0]
        before = pattern.save()
        pattern[:, :, :, 0] = 0
        pattern /= mx.maximum(pattern.sum(axis=-1, keepdims=True), 1e-9)
        after = model.attention_probabilities[0].save()
        corrupt = model.logits.save()
    with model.trace(TEXT):
        plain = model.logits.save()
    assert close(before.sum(axis=-1), mx.ones(before.shape[:-1]))
    assert mx.abs(after[..., 0]).max().item() == 0
    assert close(after[:, :, 2].sum(axis=-1), mx.ones(after.shape[:2]))
    assert not close(corrupt, plain)


def test_the_vocabulary(model):
    with model.trace(TEXT):
        hidden = model.layers_output[-1]
        projected = model.project_on_vocab(hidden).save()
        logits, best = model.logits.save(), mx.argmax(model.logits[0, -1])
        probs = model.next_token_probs.save()
        ids, mask = model.input_ids.save(), model.attention_mask
        size = model.input_size
    assert close(projected, logits) and close(probs, mx.softmax(logits[:, -1], axis=-1))
    assert ids.tolist() == [IDS] and mask.tolist() == [[1, 1, 1]] and size == (1, 3)
    assert best.item() == mx.argmax(logits[0, -1]).item()
    top = model.get_topk_closest_tokens(hidden.value[0, -1], k=3)
    order = mx.argsort(-probs[0])[:3].tolist()
    assert list(top) == [f"w{it}" for it in order]
    assert top[f"w{order[0]}"] == pytest.approx(probs[0, order[0]].item(), abs=1e-4)
    with pytest.raises(UsageError, match="hidden state"):
        model.get_topk_closest_tokens(mx.zeros((3,)))


def test_unequal_rows_end_at_their_own_last_token(model):
    with model.trace(TEXTS):
        probs, mask = model.next_token_probs.save(), model.attention_mask
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    for row, text in zip(list(probs), TEXTS):
        assert close(row, compute_next_token_probs(model, text)[0])
    acts = get_token_activations(model, TEXTS, idx=-1)
    assert acts.shape == (model.num_layers, 2, model.hidden_size)
    with model.trace(TEXTS[0]):
        wanted = model.layers_output[1].save()
    assert close(acts[1, 0], wanted[0, -1])
    with model.trace(TEXTS) as tracer:
        inside = get_token_activations(model, TEXTS, layers=[1], tracer=tracer)
        tracer.save("acts", inside)
    assert close(inside[0], acts[1])
    several = collect_token_activations_batched(model, [*TEXTS, TEXT], 2, layers=[1])
    assert several.shape == (1, 3, model.hidden_size) and close(several[0, :2], acts[1])
    with pytest.raises(OutOfRangeError, match="no token 5"):
        get_token_activations(model, TEXTS, idx=5)


def test_skipping_and_steering(model):
    with model.trace(TEXT) as tracer:
        left = model.layers_output[0].save()
        tracer.stop()
    with model.trace(TEXT):
        model.skip_layers(0, 0, skip_with=left)
        half = model.logits.save()
    with model.trace(TEXT):
        vanilla = model.logits.save()
    assert close(half, vanilla)
    with model.trace(TEXT):
        model.skip_layer(1)
        same = model.layers_output[1].save(), model.layers_input[1].save()
    assert close(*same)
    vector = mx.ones((model.hidden_size,))
    with model.trace(TEXT):
        before = mx.array(model.layers_output[1].value)
        model.steer(layers=1, steering_vector=vector, factor=0.5, token_positions=-1)
        after = model.layers_output[1].save()
    assert close(after[:, -1], before[:, -1] + 0.5) and close(after[:, 0], before[:, 0])


def test_prompts(model):
    one = Prompt.from_strings(
        words(5, 9), {"target": "w3", "traps": ["w4", "w7"]}, model.tokenizer
    )
    two = Prompt.from_strings(TEXT, {"target": "w6", "traps": "w4"}, model)
    assert one.target_tokens == {"target": [3], "traps": [4, 7]}
    assert one.has_no_collisions() and one.target_strings["target"] == "w3"
    found = run_prompts(model, [one, two], batch_size=2)
    probs = [compute_next_token_probs(model, it.prompt)[0] for it in (one, two)]
    assert found["target"].shape == (2, 1)
    assert close(found["target"][:, 0], mx.stack([probs[0][3], probs[1][6]]))
    assert close(found["traps"][0, 0], probs[0][4] + probs[0][7])
    lensed = run_prompts(model, [one, two], batch_size=1, get_probs_func=logit_lens)
    assert lensed["traps"].shape == (2, model.num_layers)
    assert close(lensed["target"][:, -1], found["target"][:, 0])
    with pytest.raises(UsageError, match="same names"):
        run_prompts(model, [one, Prompt(TEXT, {"other": [1]})])


def test_lenses(model):
    probs = logit_lens(model, TEXTS)
    assert probs.shape == (2, model.num_layers, 97)
    assert close(probs[:, -1], compute_next_token_probs(model, TEXTS))
    assert close(probs.sum(axis=-1), mx.ones(probs.shape[:2]))
    target = TargetPrompt(words(3, 4, 5, 6), -2)
    found = patchscope_lens(model, TEXTS, target)
    assert found.shape == (2, model.num_layers, 97)
    with model.trace(TEXTS[1]):
        put = model.layers_output[1].save()

    def patched(x):
        x = mx.array(x)
        x[0, 2] = put[0, -1]
        return x

    with model.trace(target.prompt, {"layers.1.resid_post": patched}):
        wanted = model.next_token_probs.save()
    assert close(found[1, 1], wanted[0])
    short = TargetPrompt(words(3, 4), -1)
    unequal = patchscope_lens(model, TEXTS, [target, short])
    assert close(unequal[0], found[0])
    assert close(unequal[1], patchscope_lens(model, TEXTS[1], short)[0])
    latents = get_token_activations(model, TEXTS, layers=[1])
    again = patchscope_lens(model, None, target, layers=1, latents=latents)
    assert close(again[:, 0], found[:, 1])
    with pytest.raises(UsageError, match="one of them"):
        patchscope_lens(model)
    mine = repeat_prompt(words=["car", "cross"], rel=":", sep="\n\n", placeholder="*")
    assert mine.prompt == "car:car\n\ncross:cross\n\n*" and mine.index_to_patch == -1
    other = patch_object_attn_lens(model, TEXTS[0], target.prompt, 1, num_patches=1)
    assert other.shape == (1, model.num_layers, 97)


def test_invokes(model):
    """nnsight: values of one prompt in another's pass."""
    with model.trace() as tracer:
        with tracer.invoke(TEXT):
            held = model.layers_output[0].save()
        with tracer.invoke(words(7, 9, 12)):
            model.layers_output[0] = held
            logits = model.logits.save()
    assert close(logits, model.engine.forward([IDS]))
    with model.scan(TEXT):
        assert model.layers_output[0].shape == (1, 3, model.hidden_size)
    with model.trace(TEXT) as tracer:
        kept = tracer.cache(modules=[model.layers[0]])
    assert len(kept) == 1 and close(*kept.values(), held)


def test_what_is_not_there(model):
    with pytest.raises(UsageError, match=r"InterpretableModel\(path\).generate"):
        model.generate(TEXT)
    with pytest.raises(UsageError, match="runs on this machine"):
        model.trace(TEXT, remote=True)
    with pytest.raises(UsageError, match="layer_attr="):
        StandardizedTransformer(tiny_llama(), rename_config=object())


def test_tables(model):
    display = pytest.importorskip("mlxterp.compat.nnterp.display")
    pytest.importorskip("pandas")
    prompt = Prompt.from_strings(TEXT, "w3", model.tokenizer)
    table = display.prompts_to_df([prompt], model.tokenizer)
    assert table[0]["prompt"] == TEXT and table[0]["target_tokens"] == ["w3"]
