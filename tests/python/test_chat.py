"""Chat templates from Python, on the demo model's tokenizer; what they render is
transformers' (tests/text/make_chats.py)."""

import copy
import datetime
import json
import pickle
from pathlib import Path

import pytest
from mlxterp import InterpretableModel
from mlxterp.errors import UnknownNameError, UsageError

CHATS = json.loads(
    (Path(__file__).parents[1] / "text" / "fixtures" / "chats.json").read_text("utf-8")
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "Loire."},
    {"role": "user", "content": "Another one."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return InterpretableModel("demo").tokenizer


def test_texts_are_those_of_transformers(tokenizer):
    now, compared = datetime.datetime(*CHATS["now"]), 0
    for shape in CHATS["templates"]:
        for case in shape["cases"]:
            arguments = {
                "conversation": CHATS["conversations"][case["conversation"]],
                "tools": CHATS["tools"] if case["tools"] else None,
                "chat_template": shape["source"],
                "add_generation_prompt": case["prompt"],
                "now": now,
                "tokenize": False,
                **shape["variables"],
            }
            if "error" in case:
                with pytest.raises(UsageError, match="refuses this conversation"):
                    tokenizer.apply_chat_template(**arguments)
                continue
            assert tokenizer.apply_chat_template(**arguments) == case["text"]
            compared += 1
    assert compared >= 110


def test_own_template(tokenizer):
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=False
    )
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_start|>assistant\n")
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    both = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=True
    )
    assert both == {"input_ids": ids, "attention_mask": [1] * len(ids)}
    assert tokenizer.chat_template == tokenizer.chat_templates["default"]


def test_turns(tokenizer):
    prompt = tokenizer.chat_prompt(MESSAGES, add_generation_prompt=True)
    said = [
        tokenizer.decode(prompt.ids[turn.content.slice]) for turn in prompt.turns
    ]
    assert said == [message["content"] for message in MESSAGES]
    assert [turn.found for turn in prompt.turns] == ["whole"] * 4
    assert [turn.role for turn in prompt.turns] == [m["role"] for m in MESSAGES]
    last = prompt.turn("user", -1)
    assert last.index == 3
    assert tokenizer.decode(prompt.ids[last.message.slice]) == (
        "<|im_start|>user\nAnother one.<|im_end|>\n"
    )
    end = prompt.generation_prompt
    assert tokenizer.decode(prompt.ids[end.slice]) == "<|im_start|>assistant\n"
    assert end.end == len(prompt.ids) and len(end) == end.end - end.begin
    with pytest.raises(UnknownNameError, match="there are 2"):
        prompt.turn("user", 2)
    for other in (copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt))):
        assert other.ids == prompt.ids
        assert other.turn("user", -1).content == last.content
        assert other.turns[0].found == "whole"


def test_what_a_user_typed_stays_text(tokenizer):
    typed = [{"role": "user", "content": "a <|im_end|> b"}]
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False)
    text = tokenizer.apply_chat_template(typed, tokenize=False)
    plain = tokenizer.apply_chat_template(typed)
    parsed = tokenizer.apply_chat_template(typed, parse_special=True)
    assert parsed.count(end) == plain.count(end) + 1
    assert tokenizer.decode(plain) == tokenizer.decode(parsed) == text
    assert parsed == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("conversation", "options", "says"),
    [
        ("text", {}, "list of messages"),
        ({"role": "user"}, {}, "list of messages"),
        (["text"], {}, "message 0"),
        ([{"role": "user", "content": {1, 2}}], {}, "not JSON"),
        ([{"role": "user", "content": float("nan")}], {}, "not JSON"),
        ([{"role": "user", "content": "\ud800"}], {}, "not JSON"),
        (MESSAGES, {"tools": [print]}, "JSON schemas"),
        (MESSAGES, {"x": object()}, "not JSON"),
        (
            MESSAGES,
            {"add_generation_prompt": True, "continue_final_message": True},
            "choose one",
        ),
        (
            MESSAGES,
            {"chat_template": "{{ raise_exception('no') }}"},
            "refuses this conversation: no",
        ),
    ],
)
def test_what_is_wrong_is_said(tokenizer, conversation, options, says):
    with pytest.raises(UsageError, match=says):
        tokenizer.apply_chat_template(conversation, **options)


def test_unknown_template(tokenizer):
    with pytest.raises(UnknownNameError, match="it has: default"):
        tokenizer.apply_chat_template(MESSAGES, chat_template="tools")


def test_the_template_marks_what_the_assistant_wrote(tokenizer):
    marked = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{{ '\\n' }}{% endfor %}"
    )
    said = [
        {"role": "user", "content": "One two"},
        {"role": "assistant", "content": "three four"},
    ]
    options = {"chat_template": marked, "return_assistant_tokens_mask": True}
    out = tokenizer.apply_chat_template(said, return_dict=True, **options)
    prompt = tokenizer.chat_prompt(said, **options)
    assert out["input_ids"] == prompt.ids == tokenizer.apply_chat_template(
        said, chat_template=marked
    )
    assert out["assistant_masks"] == prompt.assistant_mask
    ones = [i for i, one in zip(prompt.ids, prompt.assistant_mask) if one]
    assert tokenizer.decode(ones) == "three four"
    assert tokenizer.chat_prompt(said).assistant_mask == []
    with pytest.raises(UsageError, match="generation"):
        tokenizer.chat_prompt(said, return_assistant_tokens_mask=True)
    with pytest.raises(UsageError, match="return_dict"):
        tokenizer.apply_chat_template(said, **options)
