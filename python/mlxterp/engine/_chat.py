"""Chat templates of the checkpoint's own tokenizer, called as transformers'."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .. import _core
from ..errors import UsageError


def _json(value: Any, what: str) -> str:
    """As the template sees it: keys keep their order."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} are not JSON: {error}") from error
    return text


#: What would otherwise be a variable that no template reads.
_TRANSFORMERS_ONLY = (
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "tokenizer_kwargs",
)


class ChatMethods:
    """The methods of a tokenizer that need a chat template."""

    model: _core.Model
    _parse_special: bool

    @property
    def chat_templates(self) -> dict[str, str]:
        """The model's templates by name: "default", and others such as
        "tool_use". Empty where it has none."""
        return _core.chat_templates(self.model)

    @property
    def chat_template(self) -> str | None:
        """The one that is used where none is named."""
        return self.chat_templates.get("default")

    def chat_prompt(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        parse_special: bool = False,
        return_assistant_tokens_mask: bool = False,
        now: datetime | None = None,
        **variables: Any,
    ) -> _core.ChatPrompt:
        """A conversation as the model's own template writes it: its text, ids and
        turns.

        conversation: dicts with `role` and `content` and whatever else the
            template reads.
        tools, documents: dicts, handed to the template.
        chat_template: the name of one of the model's, or the text of another.
        add_generation_prompt: begin the assistant's turn at the end.
        continue_final_message: end where the last content ends.
        parse_special: read control tokens in contents, tools and documents as
            themselves, as transformers does; otherwise they are text, and only
            those that the template wrote control.
        return_assistant_tokens_mask: `assistant_mask` has 1 for each token that
            the template marks as the assistant's, between {% generation %} and
            {% endgeneration %}, as transformers has it.
        now: the local time that `strftime_now` tells.
        variables: more of what the template reads, such as `enable_thinking`.

        Raises UsageError where the model has no template, the template refuses
        the conversation or marks no assistant, or something is not JSON, BadDataError for a template
        that does not work or does not end.
        """
        return _core.apply_chat_template(
            self.model,
            *self._arguments(
                conversation,
                tools,
                documents,
                chat_template,
                add_generation_prompt,
                continue_final_message,
                parse_special,
                return_assistant_tokens_mask,
                now,
                variables,
            ),
        )

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        parse_special: bool = False,
        return_assistant_tokens_mask: bool = False,
        now: datetime | None = None,
        **variables: Any,
    ) -> list[int] | str | dict[str, list[int]]:
        """`chat_prompt` as transformers has it: ids, the text where `tokenize`
        is false, a dict of `input_ids` and `attention_mask` where `return_dict`
        is true, and of `assistant_masks` where they are asked for."""
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise UsageError(
                "return_assistant_tokens_mask needs return_dict=True and "
                "tokenize=True; or read `assistant_mask` of chat_prompt()"
            )
        arguments = self._arguments(
            conversation,
            tools,
            documents,
            chat_template,
            add_generation_prompt,
            continue_final_message,
            parse_special,
            return_assistant_tokens_mask,
            now,
            variables,
        )
        if not tokenize:
            return _core.render_chat(self.model, *arguments)
        prompt = _core.apply_chat_template(self.model, *arguments)
        if not return_dict:
            return prompt.ids
        out = {"input_ids": prompt.ids, "attention_mask": [1] * len(prompt.ids)}
        if return_assistant_tokens_mask:
            out["assistant_masks"] = prompt.assistant_mask
        return out

    @staticmethod
    def _arguments(
        conversation,
        tools,
        documents,
        chat_template,
        add_generation_prompt,
        continue_final_message,
        parse_special,
        assistant_mask,
        now,
        variables,
    ):
        if isinstance(conversation, (str, Mapping)):
            raise UsageError(
                "a conversation is a list of messages, each a dict with a role "
                "and a content"
            )
        if tools and any(not isinstance(tool, Mapping) for tool in tools):
            raise UsageError("tools are JSON schemas as dicts, not functions")
        for name in _TRANSFORMERS_ONLY:
            if variables.pop(name, None) not in (None, False):
                raise UsageError(
                    f"{name} is an argument of transformers that is not taken here: "
                    "ids are a plain list, as long as they are"
                )
        return (
            _json(list(conversation), "the messages"),
            add_generation_prompt,
            continue_final_message,
            parse_special,
            assistant_mask,
            "" if tools is None else _json(list(tools), "the tools"),
            "" if documents is None else _json(list(documents), "the documents"),
            _json(variables, "the variables") if variables else "",
            chat_template or "",
            now and (*now.timetuple()[:6],),
        )
