"""Makes tests/text/fixtures/chats.json: what Hugging Face's environment renders.

The oracle is transformers' own renderer on jinja2, and its tokenizers for ids:

    pip install transformers==5.24.0 jinja2==3.1.6
    python tests/text/make_chats.py

The templates are ours, in the shapes that published models have. Their ids are
kept as a count and a hash, by the small vocabularies beside this file.
"""

import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as utils
from transformers import AddedToken, PreTrainedTokenizerFast

from chat_shapes import EXPRESSIONS, TEMPLATES

FOLDER = pathlib.Path(__file__).parent / "fixtures"
NOW = (2025, 1, 9, 14, 5, 6)

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather",
        "description": "The weather of a city \u2014 \"now\".",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer", "default": 1},
                "items": {"type": "array", "items": {"type": "string"}}},
            "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "add", "description": "a < b & c",
        "parameters": {"type": "object", "properties": {
            "x": {"type": "number", "default": 1.5e-7},
            "y": {"type": "number", "default": 1e22}}}}},
]

CALL = {"city": "Z\u00fcrich", "days": 2, "exact": True, "none": None,
        "scale": 0.1, "items": ["a", 1]}

CONVERSATIONS = {
    "plain": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi there."},
        {"role": "user", "content": "What is 2 + 2?"}],
    "spaces": [{"role": "user", "content": "  \n Where's \"Oslo\"? \n\n "}],
    "tools": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather in Z\u00fcrich?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "call00001", "type": "function",
             "function": {"name": "get_weather", "arguments": CALL}}]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_weather",
         "content": "{\"sky\": \"clear\", \"degrees\": 21.0}"},
        {"role": "assistant", "content": "Clear, 21 degrees."},
        {"role": "user", "content": "Thanks"}],
    "thinking": [
        {"role": "user", "content": "Is 7 prime?"},
        {"role": "assistant",
         "content": "<think>\nNo divisor of 7 is in 2, 3.\n</think>\n\nYes, 7 is."},
        {"role": "user", "content": "And 9?"},
        {"role": "assistant", "content": "<think>\n3 * 3\n</think>\n\nNo."}],
    "scripts": [
        {"role": "system", "content": "\u7b80\u77ed\u3002"},
        {"role": "user", "content": "\u4f60\u597d {{ name }} {% raw %} \\n \U0001f600"},
        {"role": "assistant", "content": "line one\nline two\n\n* item\t\u00e9"},
        {"role": "user", "content": "<b>&amp;</b> 'single' \"double\" a|b"},
        {"role": "assistant", "content": "ok"}],
    "empty": [
        {"role": "system", "content": ""},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "y\n"}],
}


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW)


utils.datetime = Frozen


def hashed(ids):
    """FNV-1a over the ids, each as eight bytes, the lowest first."""
    value = 0xCBF29CE484222325
    for id in ids:
        for byte in int(id).to_bytes(8, "little"):
            value = ((value ^ byte) * 0x100000001B3) % 2**64
    return f"{value:016x}"


def rendered(template, messages, tools, **variables):
    try:
        texts, _ = utils.render_jinja_template(
            [messages], tools=tools, chat_template=template, **variables)
    except Exception as error:
        kind = type(error).__name__
        return None, str(error) if kind == "TemplateError" else kind
    return texts[0], None


def tokenizer_of(template):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / (template["tokenizer"] + ".tokenizer.json")))
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False)
                          for name in template["controls"]], special_tokens=True)
    return tokenizer


def cases_of(template):
    tokenizer = tokenizer_of(template)
    cases = []
    for i, (name, messages) in enumerate(CONVERSATIONS.items()):
        with_tools = name == "tools" and template.get("tools", False)
        prompt = name != "scripts"
        variables = {**template["variables"], "add_generation_prompt": prompt}
        text, error = rendered(template["source"], messages,
                               TOOLS if with_tools else None, **variables)
        case = {"conversation": name, "tools": with_tools, "prompt": prompt}
        if error is None:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            case |= {"text": text, "count": len(ids), "hash": hashed(ids)}
        else:
            case["error"] = error
        cases.append(case)
    return cases


def main():
    templates = []
    for template in TEMPLATES:
        templates.append(template | {"cases": cases_of(template)})
    expressions = []
    for source in EXPRESSIONS:
        text, error = rendered(source, CONVERSATIONS["tools"], TOOLS)
        expressions.append([source, text])
    assert sum("text" in c for t in templates for c in t["cases"]) >= 90
    file = {"now": NOW, "tools": TOOLS, "conversations": CONVERSATIONS,
            "templates": templates, "expressions": expressions}
    path = FOLDER / "chats.json"
    path.write_text(json.dumps(file, ensure_ascii=False, indent=0) + "\n")
    failed = [e[0] for e in expressions if e[1] is None]
    print(len(templates), "templates,", len(expressions), "expressions,",
          path.stat().st_size, "bytes; errors:")
    for source in failed:
        print("   ", source)
    for template in templates:
        for case in template["cases"]:
            if "error" in case:
                print("   ", template["name"], case["conversation"], case["error"])


if __name__ == "__main__":
    main()
