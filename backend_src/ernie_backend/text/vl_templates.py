"""The prompt formats of the models that see, for checkpoints that ship no template; renders nothing.

A placeholder stands where an image or a video goes; the prompt's ids get as many of it as the item has tokens. The text around it
("Picture 1:") is the format's own and was there in training.
"""

from __future__ import annotations

_PARTS = """\
{%- set count = namespace(image=0, video=0) -%}
{%- macro parts(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'image' -%}
                {%- set count.image = count.image + 1 -%}
                {{- 'Picture ' ~ count.image ~ ':<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>' -}}
            {%- elif part.type == 'video' -%}
                {%- set count.video = count.video + 1 -%}
                {{- 'Video ' ~ count.video ~ ':<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>' -}}
            {%- else -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set begin = cls_token if cls_token is defined else '<|begin_of_sentence|>' -%}
{%- set end = sep_token if sep_token is defined else '<|end_of_sentence|>' -%}
"""

ERNIE_VL = (
    _PARTS
    + """\
{{- begin -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {{- parts(message.content) + '\\n' -}}
    {%- elif message.role == 'user' -%}
        {{- 'User: ' + parts(message.content) -}}
    {%- elif message.role == 'assistant' -%}
        {%- set content = parts(message.content) -%}
        {%- set thought = parts(message.reasoning_content or '') -%}
        {%- if '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1] -%}
            {%- set content = content.split('</think>')[-1] -%}
        {%- endif -%}
        {{- '\\nAssistant: ' -}}
        {%- if thought.strip('\\n') -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n' + content.lstrip('\\n') -}}
        {%- else -%}
            {{- content -}}
        {%- endif -%}
        {{- end -}}
    {%- else -%}
        {{- raise_exception('this model knows the roles system, user and assistant only') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '\\nAssistant: ' + ('<think>' if enable_thinking is defined and enable_thinking else '<think>\\n\\n</think>\\n\\n') -}}
{%- endif -%}
"""
)
"""ERNIE-4.5-VL-28B-A3B and -424B-A47B."""

ERNIE_VL_THINKING = (
    _PARTS
    + """\
{%- set default = 'You are a multimodal AI assistant called ERNIE developed by Baidu based on the PaddlePaddle framework.' -%}
{%- macro call(given) -%}
    {%- set function = given.function if given.function is defined else given -%}
    {%- set arguments = function.arguments if function.arguments is string else function.arguments | tojson -%}
    {{- '<tool_call>\\n{"name": ' ~ (function.name | tojson) ~ ', "arguments": ' ~ arguments ~ '}\\n</tool_call>\\n' -}}
{%- endmacro -%}
{{- begin -}}
{%- if messages[0].role == 'system' -%}
    {{- parts(messages[0].content) -}}
{%- else -%}
    {{- default -}}
{%- endif -%}
{%- if tools -%}
    {{- '\\n<tool_list>\\n[' -}}
    {%- for tool in tools -%}
        {{- (tool | tojson) ~ ('' if loop.last else ', ') -}}
    {%- endfor -%}
    {{- ']\\n</tool_list>\\n' -}}
{%- endif -%}
{{- '\\n' -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- if not loop.first -%}
            {{- raise_exception('a system message must be the first one') -}}
        {%- endif -%}
    {%- elif message.role == 'user' -%}
        {{- 'User: ' + parts(message.content) + '\\nAssistant: ' -}}
    {%- elif message.role == 'tool' -%}
        {%- if loop.previtem is not defined or loop.previtem.role != 'tool' -%}
            {{- 'User: ' -}}
        {%- endif -%}
        {{- '<tool_output>\\n' + parts(message.content) + '\\n</tool_output>\\n' -}}
        {%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' -%}
            {{- '\\nAssistant: ' -}}
        {%- endif -%}
    {%- elif message.role == 'assistant' -%}
        {%- set content = parts(message.content or '') -%}
        {%- set thought = parts(message.reasoning_content or '') -%}
        {%- if '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1] -%}
            {%- set content = content.split('</think>')[-1] -%}
        {%- endif -%}
        {%- if thought.strip('\\n') -%}
            {{- '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else -%}
            {{- content -}}
        {%- endif -%}
        {%- if message.tool_calls -%}
            {{- '\\n' if content else '' -}}
            {%- for given in message.tool_calls -%}
                {{- call(given) -}}
            {%- endfor -%}
        {%- endif -%}
        {{- end -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '\\n<think>\\n' if enable_thinking is not defined or enable_thinking else '\\n<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
"""
)
"""ERNIE-4.5-VL-28B-A3B-Thinking. Reconstructed from training code: the published template could not be read."""

PADDLEOCR_VL = """\
{%- set begin = cls_token if cls_token is defined else '<|begin_of_sentence|>' -%}
{{- begin -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- 'User: ' -}}
        {%- for part in message.content if part.type == 'image' -%}
            {{- '<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>' -}}
        {%- endfor -%}
        {%- for part in message.content if part.type == 'text' -%}
            {{- part.text -}}
        {%- endfor -%}
        {{- '\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- 'Assistant: ' -}}
        {%- for part in message.content if part.type == 'text' -%}
            {{- part.text -}}
        {%- endfor -%}
        {{- '</s>' -}}
    {%- elif message.role == 'system' -%}
        {%- for part in message.content if part.type == 'text' -%}
            {{- part.text + '\\n' -}}
        {%- endfor -%}
    {%- else -%}
        {{- raise_exception('this model knows the roles system, user and assistant only') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'Assistant: ' -}}
{%- endif -%}
"""
"""PaddleOCR-VL-0.9B; all images of a message before its texts."""
