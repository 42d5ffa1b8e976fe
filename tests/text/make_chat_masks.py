"""Makes tests/text/fixtures/chat_masks.json: which tokens transformers says that
the assistant wrote, where a template has {% generation %}.

    pip install transformers==5.24.0 jinja2==3.1.6
    python tests/text/make_chat_masks.py
"""

import json

from make_chats import CONVERSATIONS, FOLDER, tokenizer_of

IM = ["<|im_start|>", "<|im_end|>"]

#: Shapes in which published templates and training scripts use it.
TEMPLATES = {
    # Around the whole turn but its header.
    "content": """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{- message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    # Header and all, on lines of their own, whose white space trimming takes.
    "lines": """\
{% for message in messages %}
    {% if message['role'] == 'assistant' %}
        {% generation %}
        {{ '<|im_start|>assistant\\n' + message['content'] + '<|im_end|>' }}
        {% endgeneration %}
    {% else %}
        {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
    {% endif %}
{% endfor %}""",
    # With what is set, looped over and chosen within it.
    "within": """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- generation -%}
{%- set said = message.content | trim -%}
{%- if '</think>' in said -%}
{%- set said = said.split('</think>')[-1].lstrip() -%}
{%- endif -%}
{{- said -}}
{%- for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>
{%- endfor -%}
{%- endgeneration -%}
{{- '<|im_end|>' -}}
{%- else -%}
{{- message.role + ': ' + message.content + '<|im_end|>' -}}
{%- endif -%}
{%- endfor -%}""",
    # Two to a turn, none where it says nothing, text before and behind it.
    "two": """\
{%- for m in messages -%}
{%- if m.role == 'assistant' and m.content -%}
A: {% generation %}{{ m.content[:3] }}{% endgeneration %}|{% generation %}{{ m.content[3:] }}{% endgeneration %}.
{%- else -%}
[{{ m.role }}] {{ m.content }}
{%- endif -%}
{%- endfor -%}""",
    # In a macro: transformers takes the place of all that the macro writes.
    "macro": """\
{%- macro said(m) -%}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{%- endmacro -%}
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{{ said(m) }}{% else %}{{ m.content }}<|im_end|>{% endif %}
{%- endfor -%}""",
}


def runs(mask):
    """[begin, end] of each run of ones."""
    out = []
    for i, one in enumerate(mask):
        if one and (not out or out[-1][1] != i):
            out.append([i, i + 1])
        elif one:
            out[-1][1] = i + 1
    return out


def main():
    tokenizer = tokenizer_of({"tokenizer": "llama3", "controls": IM})
    cases = []
    for name, source in TEMPLATES.items():
        for conversation, messages in CONVERSATIONS.items():
            for prompt in (False, True):
                got = tokenizer.apply_chat_template(
                    messages, chat_template=source, return_dict=True,
                    return_assistant_tokens_mask=True,
                    add_generation_prompt=prompt)
                mask = got["assistant_masks"]
                text = tokenizer.apply_chat_template(
                    messages, chat_template=source, tokenize=False,
                    add_generation_prompt=prompt)
                cases.append({
                    "template": name, "conversation": conversation,
                    "prompt": prompt, "text": text, "count": len(mask),
                    "ones": runs(mask)})
    assert sum(bool(c["ones"]) for c in cases) >= 30
    file = {"controls": IM, "templates": TEMPLATES, "cases": cases}
    path = FOLDER / "chat_masks.json"
    path.write_text(json.dumps(file, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), "cases,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
