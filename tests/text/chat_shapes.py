"""Templates in the shapes of published models' (each in words of our own), and
expressions whose value Python and Jinja decide."""

TEMPLATES = []


def shape(name, tokenizer, tokens, source, tools=False, **variables):
    TEMPLATES.append({"name": name, "tokenizer": tokenizer, "controls": tokens,
                      "source": source, "tools": tools, "variables": variables})


IM = ["<|im_start|>", "<|im_end|>"]

shape("chatml", "qwen2", IM, """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""")

# A system message where the conversation brings none.
shape("chatml-default", "llama3", IM, """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You help.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""")

# The system message within the first user's, alternation checked.
shape("inst-folded", "sentencepiece", [], """\
{% if messages[0]['role'] == 'system' %}
{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if loop.index0 == 0 and system_message != false %}
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{ ' '  + content.strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %}""", bos_token="<s>", eos_token="</s>")

HEADERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

shape("headers", "llama3", HEADERS, """\
{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>

'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}""", bos_token="<|begin_of_text|>")

shape("headers-tools", "llama3", HEADERS + ["<|eom_id|>", "<|python_tag|>"], """\
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Known until: December 2023\\nToday: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}{{- raise_exception("no first user message to put tools in") }}{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Answer with a call if need be.\\n\\n" }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""", tools=True, bos_token="<|begin_of_text|>")

shape("inst-v1", "sentencepiece", [], """\
{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}""",
      bos_token="<s>", eos_token="</s>")

INST = ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
        "[TOOL_CONTENT]"]

shape("inst-tools", "metaspace", INST, """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate, tools apart") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("a call's id has 9 characters") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("unknown role " + message["role"]) }}
    {%- endif %}
{%- endfor %}
""", tools=True, bos_token="<s>", eos_token="</s>")

shape("inst-blocks", "metaspace", INST, """\
{%- set default_system_message = "Today's date is " ~ strftime_now("%Y-%m-%d") ~ "." %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set system_message = messages[0]['content'] %}
    {%- else %}
        {%- set system_message = messages[0]['content'][0]['text'] %}
    {%- endif %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = default_system_message %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if message['content'] is string %}
            {{- '[INST]' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for block in message['content'] %}
                {%- if block['type'] == 'text' %}{{- block['text'] }}{%- endif %}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {{- '[TOOL_CALLS]' ~ call.function.name ~ call.function.arguments | tojson }}
            {%- endfor %}
        {%- endif %}
        {{- message['content'] + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ message.tool_call_id ~ '[TOOL_CONTENT]' ~ message.content ~ '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('Only user, system and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}""", tools=True, bos_token="<s>", eos_token="</s>")

TURNS = ["<bos>", "<start_of_turn>", "<end_of_turn>"]

shape("turns", "metaspace", TURNS, """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""", bos_token="<bos>")

shape("turns-prefix", "metaspace", TURNS, """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""", bos_token="<bos>")

ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]

shape("roles", "sentencepiece", ROLES, """\
{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""", eos_token="<|endoftext|>")

shape("roles-separated", "llama3", ["<|im_start|>", "<|im_sep|>", "<|im_end|>"], """\
{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}""")

QWEN_TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nCall one or more functions if that helps.\\n\\nSignatures are within <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nEach call is a JSON object:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n" }}
"""

shape("calls", "qwen2", IM, QWEN_TOOLS + """\
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""", tools=True)

shape("calls-thinking", "qwen2", IM, QWEN_TOOLS + """\
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""", tools=True, enable_thinking=False)

WIDE = ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"]

shape("wide-bars", "llama3", WIDE, """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<\uff5cUser\uff5c>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<\uff5ctool_outputs_end\uff5c>' + message['content'] + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<\uff5cAssistant\uff5c>' + content + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<\uff5ctool_outputs_begin\uff5c>' + message['content']}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n' + message['content']}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<\uff5ctool_outputs_end\uff5c>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<\uff5cAssistant\uff5c><think>\\n'}}{% endif %}""",
      bos_token=WIDE[0], eos_token=WIDE[1])

shape("start-of-role", "qwen2", ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"], """\
{%- if messages[0]['role'] == 'system' %}
     {%- set system_message = messages[0]['content'] %}
     {%- set loop_messages = messages[1:] %}
{%- else %}
     {%- set system_message = "Today's Date: " + strftime_now('%B %d, %Y') + ".\\nYou help." %}
     {%- if tools and documents %}
         {%- set system_message = system_message + " Tools and documents." %}
     {%- elif tools %}
         {%- set system_message = system_message + " Tools." %}
     {%- endif %}
     {%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if tools %}
     {{- '<|start_of_role|>tools<|end_of_role|>' }}
     {{- tools | tojson(indent=4) }}
     {{- '<|end_of_text|>\\n' }}
{%- endif %}
{%- if documents %}
     {{- '<|start_of_role|>documents<|end_of_role|>' }}
     {%- for document in documents %}
         {{- 'Document ' + loop.index | string + '\\n' }}
         {{- document['text'] }}
         {%- if not loop.last %}{{- '\\n\\n'}}{%- endif%}
     {%- endfor %}
     {{- '<|end_of_text|>\\n' }}
{%- endif %}
{%- for message in loop_messages %}
     {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}
     {%- if loop.last and add_generation_prompt %}
         {{- '<|start_of_role|>assistant' }}
         {%- if controls %}{{- ' ' + controls | tojson()}}{%- endif %}
         {{- '<|end_of_role|>' }}
     {%- endif %}
{%- endfor %}""", tools=True, documents=[{"title": "A", "text": "First."}, {"title": "B", "text": "Second."}],
      controls={"length": "short", "originality": None})

shape("turn-tokens", "metaspace", ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
                                  "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"], """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{%- elif false == true %}{% set loop_messages = messages %}{% set system_message = 'Never.' %}
{%- else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{%- if system_message != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}
{%- macro types(parameters) %}
{%- for name, fields in parameters.items() %}
{{ name }}: {{ {"string": "str", "integer": "int", "number": "float"}.get(fields.type, 'Any') }}{% if not loop.last %}, {% endif %}
{%- endfor %}
{%- endmacro %}
{%- if tools %}{{ '\\n## Tools' }}{% for tool in tools %}{{ '\\ndef ' + tool.function.name + '(' + types(tool.function.parameters.properties) + ')' }}{% endfor %}{% endif %}
{%- for message in loop_messages %}
{%- set content = message['content'] %}
{%- if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif message['role'] == 'tool' %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>' + content|string + '</results><|END_OF_TURN_TOKEN|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
      tools=True, bos_token="<BOS_TOKEN>")

shape("eos-lines", "sentencepiece", ["<|user|>", "<|system|>", "<|assistant|>"], """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""", eos_token="</s>")

# With a default, a generation tag and flags in the system message.
shape("generation", "llama3", IM, """\
{# ───── defaults ───── #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{# ───── reasoning mode ───── #}
{%- if enable_thinking -%}
  {%- set reasoning_mode = "/think" -%}
{%- else -%}
  {%- set reasoning_mode = "/no_think" -%}
{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}
    {%- set reasoning_mode = "/no_think" -%}
  {%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "## Metadata\\n\\n" -}}
{%- set today = strftime_now("%d %B %Y") -%}
{{- "Today Date: " ~ today ~ "\\n" -}}
{{- "Reasoning Mode: " + reasoning_mode + "\\n\\n" -}}
{%- if custom_instructions -%}{{- custom_instructions + "\\n\\n" -}}{%- endif -%}
{%- if xml_tools or python_tools or tools -%}
  {%- set ns = namespace(xml_tool_string="Functions:\\n<tools>\\n") -%}
  {%- for tool in tools[:] -%}
    {%- set ns.xml_tool_string = ns.xml_tool_string ~ (tool | string) ~ "\\n" -%}
  {%- endfor -%}
  {{- ns.xml_tool_string + "</tools>\\n" -}}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\\n"  + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if reasoning_mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}
    {{ "<|im_start|>" + "user\\n"  + content + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if reasoning_mode == "/think" -%}
        {{ "<|im_start|>assistant\\n" }}
    {%- else -%}
        {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n"  }}
    {%- endif -%}
{%- endif -%}""", tools=True)

shape("bar-roles", "llama3", ["<|endoftext|>"], """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>
' + message['content'] + '
' }}{% elif message['role'] == 'user' %}{{ '<|user|>
' + message['content'] + '
' }}{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>
'  + message['content'] + eos_token + '
' }}{% else %}{{ '<|assistant|>
'  + message['content'] + eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>
' }}{% endif %}{% endfor %}""", bos_token="<|endoftext|>", eos_token="<|endoftext|>")

shape("capitalized", "qwen2", ["<|endoftext|>"], """\
{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ message['role'].capitalize() + ': ' + message['content'].replace('\\r\\n', '\\n').replace('\\n\\n', '\\n') }}{% endfor %}{% if add_generation_prompt %}{{ '\\nAssistant:' }}{% endif %}""")

# Channels, recursive macros over a schema, loop controls.
shape("channels", "llama3", ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>", "<|return|>"], """\
{%- macro render_type(spec) -%}
    {%- if spec.type == "array" -%}
        {%- if spec['items'] -%}{{ render_type(spec['items']) + "[]" }}{%- else -%}any[]{%- endif -%}
    {%- elif spec.enum is defined -%}
        {{ '"' + spec.enum|join('" | "') + '"' }}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string -%}
        {{ spec.type | join(" | ") }}
    {%- elif spec.type == "integer" or spec.type == "number" -%}
        number
    {%- else -%}
        {{ spec.type | default("any") }}
    {%- endif -%}
{%- endmacro -%}
{%- macro render_tools(tools) -%}
    {{- "# Tools\\n\\nnamespace functions {\\n\\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + tool.description + "\\n" }}
        {{- "type " + tool.name + " = (_: {\\n" }}
        {%- for name, spec in tool.parameters.properties|items %}
            {%- if spec.description %}{{- "// " + spec.description + "\\n" }}{%- endif %}
            {{- name }}
            {%- if name not in (tool.parameters.required or []) %}{{- "?" }}{%- endif %}
            {{- ": " + render_type(spec) }}
            {%- if spec.default is defined %}{{- ", // default: " ~ spec.default }}{%- else %}{{- "," }}{%- endif %}
            {{- "\\n" }}
        {%- endfor %}
        {{- "}) => any;\\n\\n" }}
    {%- endfor %}
    {{- "} // namespace functions" }}
{%- endmacro -%}
{{- "<|start|>system<|message|>Current date: " + strftime_now("%Y-%m-%d") + "\\n\\nReasoning: " + (reasoning_effort or "medium") + "<|end|>" }}
{%- set developer = messages[0].content if messages[0].role in ["developer", "system"] else "" %}
{%- if developer or tools %}
    {{- "<|start|>developer<|message|>" }}
    {%- if developer %}{{- "# Instructions\\n\\n" + developer }}{%- endif %}
    {%- if tools %}{{- "\\n\\n" }}{{- render_tools(tools) }}{%- endif %}
    {{- "<|end|>" }}
{%- endif %}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in messages -%}
    {%- if message.role in ["developer", "system"] -%}{%- continue -%}{%- endif -%}
    {%- if message.role == 'assistant' -%}
        {%- if "tool_calls" in message and message.tool_calls -%}
            {%- set tool_call = message.tool_calls[0].function -%}
            {%- set last_tool_call.name = tool_call.name -%}
            {{- "<|start|>assistant to=functions." ~ tool_call.name ~ "<|channel|>commentary json<|message|>" ~ (tool_call.arguments|tojson) ~ "<|call|>" }}
        {%- elif loop.last and not add_generation_prompt -%}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
        {%- else -%}
            {%- set last_tool_call.name = none -%}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
        {%- endif -%}
    {%- elif message.role == 'tool' -%}
        {%- if last_tool_call.name is none -%}{{- raise_exception("no call before this result") }}{%- endif -%}
        {{- "<|start|>functions." + last_tool_call.name + " to=assistant<|channel|>commentary<|message|>" + message.content|tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>user<|message|>" + message.content + "<|end|>" }}
        {%- if "never" in message.content -%}{%- break -%}{%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""", tools=True)

EXPRESSIONS = [
    # printing
    "{{ true }} {{ false }} {{ none }} {{ missing }}|{{ 1 }} {{ -0.0 }} {{ 1.0 }}",
    "{{ 1e16 }} {{ 123456789012345.6 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001234 }} {{ 1e22 }} {{ 1.5e-7 }} {{ 3.0e300 }}",
    "{{ [1, 'a', none, true, 1.5] }} {{ {'k': [1], 'q': \"it's\"} }}",
    "{{ ['a\"b', \"a'b\", 'a\\'b\"c', 'tab\\t', 'nl\\n', '\u00e9', '\\x7f'] }}",
    "{{ messages[2].tool_calls }}",
    "{{ tools[0].function.parameters }}",
    "{{ 'x' ~ true ~ none ~ 1.0 ~ [1] ~ missing }}",
    "{{ 10 // 3 }} {{ 10 / 4 }} {{ 10 / 5 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ 2 ** 10 }}",
    "{{ true + 1 }} {{ 2 * 1.5 }} {{ (1 ~ 2) + '3' }}",
    "{{ 'a' * 3 }} {{ 3 * 'ab' }} {{ [1, 2] * 2 }} {{ 'x' * -1 }}|{{ [1] + [2, 3] }}",
    "{{ '%s and %d, %.2f%%' % ('a', 3, 1.5) }} {{ '%s' % true }}",
    "{{ 'a' + 'b' ~ 'c' + 'd' }} {{ ('a' ~ 'b') ~ ('c' ~ ('d' ~ 'e')) }}",
    "{{ 1 - 2 + 3 - 4 + 5 }} {{ 2 * 3 % 4 * 5 }} {{ 8 // 3 * 2 }} {{ 1 + -2 + 3 }}",
    "{{ 'a' 'b' \"c\" }} {{ 'x' if false }}|{{ 'y' if true else 'z' }}",
    # tojson
    "{{ tools | tojson }}",
    "{{ tools | tojson(indent=2) }}",
    "{{ messages[2] | tojson(indent=4, ensure_ascii=True) }}",
    "{{ tools[0].function | tojson(sort_keys=true) }}",
    "{{ {'a': [1, 2.0, true, none, 1e100, -0.5], 'b': {}} | tojson(separators=(',', ':')) }}",
    "{{ {'b': [], 'a': {}, 'c': [[]]} | tojson(indent=1, sort_keys=true) }}",
    "{{ '<>&\\'\"\\\\ /\\u00e9\\u2028\\x7f\\x01\\n\\t\\r\\b\\f' | tojson }}",
    "{{ '\\u00e9 \U0001f600 \\x7f' | tojson(ensure_ascii=true) }}",
    "{{ [1, 2] | tojson(indent='--') }} {{ [] | tojson(indent=2) }} {{ 1.0 | tojson }} {{ 'x' | tojson(false, 2) }}",
    "{{ missing | tojson }}",
    "{{ {1: 'a', none: 'c', 1.5: 'd'} | tojson }}",
    "{{ {'a': 1}.items() | list | tojson }}",
    # strings
    "{{ '  a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ '\\x1c\\u00a0a\\x1f'.strip() }}",
    "{{ 'a b  c'.split() }} {{ 'a b  c'.split(' ') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ ' a b '.split(none, 1) }}",
    "{{ 'a\\nb\\r\\nc'.splitlines() }} {{ 'a\\n\\nb\\n'.splitlines(true) }}",
    "{{ 'hello world'.title() }} {{ \"they're here\".title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'Stra\u00dfe'.upper() }} {{ '\u00c9A'.lower() }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('bc') }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ '\u00e9\u00e9x'.find('x') }} {{ 'abcabc'.rfind('b') }}",
    "{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc'.replace('X', '-', 1) }} {{ 'banana'.count('an') }} {{ 'abc'.count('') }}",
    "{{ ''.isspace() }} {{ ' '.isspace() }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'ab1'.isalnum() }} {{ 'ab'.isalpha() }} {{ 'AB1'.isupper() }} {{ '1'.isupper() }} {{ 'ab'.islower() }}",
    "{{ ', '.join(['a', 'b']) }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.jinja'.removesuffix('.jinja') }} {{ 'a=b=c'.partition('=') | list }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }}",
    "{{ 'ab'.center(7, '*') }} {{ 'abc'.center(6, '*') }} {{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4) }}|",
    "{{ '{} and {1}'.format(1, 2) if false else '{0}-{1}-{x}'.format('a', 2, x=true) }}",
    "{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[:-2] }} {{ '\u00e9\U0001f600x'[1] }}",
    "{{ 'b' in 'abc' }} {{ 'z' not in 'abc' }} {{ 1 in [1, 2] }} {{ 'a' in {'a': 1} }} {{ 'abc' < 'abd' }} {{ 'a' == 'a' }}",
    # dicts and lists
    "{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1, 'b': 2}.keys() | list }} {{ {'a': 1}.values() | list }}",
    "{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'z': 1, 'a': 2} | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for name, spec in tools[0].function.parameters.properties.items() %}{{ name }}:{{ spec.type }};{% endfor %}",
    "{{ [3, 1, 2] | sort }} {{ [3, 1, 2] | sort(reverse=true) }} {{ ['b', 'A'] | sort }} {{ [1, 1, 2] | unique | list }} {{ [1, 2, 3] | sum }} {{ [1, 2] | first }} {{ [1, 2] | last }} {{ [4, 9] | max }}",
    "{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | list }}",
    "{{ ['a', 'b'] | map('upper') | list }} {{ [1, none, 2] | select | list }} {{ [1, 2, 3] | reject('odd') | list }} {{ [1, 2, 3, 4] | batch(3) | list }} {{ 'abc' | list }} {{ [1, true, none] | join('-') }}",
    "{{ messages[-1].content }} {{ messages[10] is defined }} {{ messages[0].nothing is defined }} {{ messages[::-1][0].role }} {{ messages[1:3] | length }} {{ missing | length }}",
    # tests
    "{{ none is none }} {{ missing is none }} {{ missing is defined }} {{ missing == none }} {{ none is iterable }} {{ 'a' is iterable }} {{ 'a' is sequence }} {{ {} is sequence }} {{ {} is mapping }} {{ [] is sequence }}",
    "{{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is integer }} {{ 'a' is string }} {{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ 1 is eq 1 }} {{ false is false }} {{ 0 is false }} {{ none is sameas none }}",
    "{{ 'b' is in ['a', 'b'] }} {{ 'A' is upper }} {{ missing is iterable }} {{ not missing }} {{ '' or 'x' }} {{ [] or none }} {{ (messages | length - 6) and 1 }} {{ (missing or none) and 1 }}",
    # filters
    "{{ '  a ' | trim }}|{{ 'xax' | trim('x') }}|{{ missing | trim }}|{{ none | trim }}|{{ 3 | string + 'x' }}|{{ true | string }}|{{ none | string }}|{{ 1.0 | string }}",
    "{{ missing | default('d') }} {{ '' | default('d') }}|{{ '' | default('d', true) }} {{ none | default('d') }} {{ none | default('d', boolean=true) }}",
    "{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(2, blank=true) }}|{{ 'a\\nb' | indent(width=1, first=true) }}",
    "{{ 'hello' | capitalize }} {{ 'hello world' | title }} {{ 'abc' | reverse }} {{ [1, 2] | reverse | list }} {{ 'a b' | replace(' ', '_') }} {{ 'ab' | upper }} {{ 1 | upper }} {{ '42' | int + 1 }} {{ 'x' | int }} {{ '1.5' | float }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ -3 | abs }}",
    "{{ '%s=%s' | format('a', 1) }} {{ ['b', 'a'] | sort | join }} {{ 'abc' | length }} {{ '\u00e9\U0001f600' | length }} {{ {'a': 1} | length }} {{ ({'b': 1, 'a': 2} | items | list)[0][1] }}",
    "{{ '<a>' | escape }} {{ '<a>' | safe }} {{ '<a>' | e }}",
    # statements
    "{% set ns = namespace(x=0) %}{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{% set ns.x = ns.x + i %}{{ loop.index }}{{ loop.first }}{{ loop.last }} {% endfor %}{{ ns.x }}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ m.role }}>{{ loop.nextitem.role if not loop.last else '-' }} {% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}",
    "{% set block %}a{{ 1 }}b{% endset %}{{ block | upper }}{% filter upper %}q{% endfilter %}{% macro f(a, b=2) %}({{ a }},{{ b }}){% endmacro %}{{ f(1) }}{{ f(1, b=3) }}",
    "{% macro f(a) %}{{ caller() }}{{ a }}{% endmacro %}{% call f(1) %}in{% endcall %}{% with y = 3 %}{{ y }}{% endwith %}{{ y }}",
    "  {% if true %}\n    a\n  {% endif %}\n  {%- if true -%}  b  {%- endif %}\n\n c {# comment #}\n{{- ' d' }}\n",
    "{% if true %}\r\nx\r\n{% endif %}\r\ny\rz",
    "{% raw %}{{ not }} {% this %}{% endraw %}",
    "{% for x in [] %}{{ x }}{% else %}none{% endfor %}{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}{% for x in [1, 2, 3] if x > 1 %}{{ x }}{{ loop.index }}{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor %}",
    "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }} {%- generation -%} x {%- endgeneration -%} y",
    "{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %a %A %j %y %I %p %-d %e %w %u %%') }}",
    "{{ raise_exception('no ' + 'way') }}",
    "{{ missing.attribute }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' + missing }}",
    "{{ none | length }}",
    "{{ messages.append(1) }}",
    "{{ nofunction() }}",
    "{{ dict(a=1, b='c') }} {{ namespace(a=1).a }} {{ range(3) | list }} {{ range(1, 6, 2) | list }}",
    "long text between tags, which is longer than two hundred and fifty-six bytes, so that it is written as a variable and what it costs is counted; it has \"quotes\", {single} braces, a back\\slash and\n two lines, the second of which   ends in blanks   \n\n  {% if true %}\n   and so does this one, which stands in a block whose lines are trimmed and stripped of the blanks before it, as every block's are; it is as long as the other, so that it is taken out of the template as well, and put back where it was when all is rendered   \n  {% endif %}\nend",
]
