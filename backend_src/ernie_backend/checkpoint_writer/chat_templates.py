"""The chat templates that random checkpoints ship, by the published model they are like; each writes the prompts of its family."""

from __future__ import annotations

from ..text.vl_templates import ERNIE_VL, ERNIE_VL_THINKING, PADDLEOCR_VL

TEXT = """\
{%- set begin = cls_token if cls_token is defined else '<|begin_of_sentence|>' -%}
{%- set end = sep_token if sep_token is defined else '<|end_of_sentence|>' -%}
{{- begin -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- message['content'] + '\\n' -}}
    {%- elif message['role'] == 'user' -%}
        {{- 'User: ' + message['content'] + '\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'Assistant: ' + message['content'] + end -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt is not defined or add_generation_prompt -%}
    {{- 'Assistant: ' -}}
{%- endif -%}
"""

X1 = """\
{%- set settings = namespace(system='', last_user=-1) -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- if not loop.first -%}
            {{- raise_exception('a system message must be the first one') -}}
        {%- endif -%}
        {%- set settings.system = message['content'] -%}
    {%- elif message['role'] == 'user' -%}
        {%- set settings.last_user = loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{{- '<|im_start|>system\\n' -}}
{%- if settings.system -%}
    {{- '<system_setting>\\n' + settings.system + '\\n</system_setting>\\n\\n' -}}
{%- endif -%}
{{- '<global_setting>\\nthink_mode=True\\n</global_setting>' -}}
{%- if tools -%}
    {{- '\\n\\n<tool_list>\\n[' -}}
    {%- for tool in tools -%}
        {{- tool | tojson -}}
        {%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
    {%- endfor -%}
    {{- ']\\n</tool_list>' -}}
{%- endif -%}
{{- '<|im_end|>\\n\\n' -}}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- '<|im_start|>user\\n' + message['content'] + '<|im_end|>\\n\\n' -}}
    {%- elif message['role'] == 'tool' -%}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>\\n\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if message['tool_calls'] and message['thoughts'] and loop.index0 > settings.last_user -%}
            {{- '<think>\\n' + message['thoughts'] + '\\n</think>\\n' -}}
        {%- endif -%}
        {%- if message['content'] -%}
            {{- '<response>\\n' + message['content'] + '\\n</response>\\n' -}}
        {%- endif -%}
        {%- for call in message['tool_calls'] -%}
            {{- '\\n<tool_call>\\n' + ({'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson) -}}
            {{- '\\n</tool_call>\\n' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n\\n' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\\n<think>\\n' -}}
"""
"""Always asks for a thought, whatever `add_generation_prompt` says, as the published one does; thoughts of earlier turns are left out."""

TEMPLATES = {
    "ERNIE-4.5-21B-A3B-Thinking": X1,
    "ERNIE-4.5-VL-28B-A3B": ERNIE_VL,
    "ERNIE-4.5-VL-28B-A3B-Thinking": ERNIE_VL_THINKING,
    "ERNIE-4.5-VL-424B-A47B": ERNIE_VL,
    "PaddleOCR-VL-0.9B": PADDLEOCR_VL,
}


def template_like(model: str) -> str:
    return TEMPLATES.get(model, TEXT)
