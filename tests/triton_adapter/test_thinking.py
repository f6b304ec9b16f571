"""Whether the model shall think, and for how long: every place where a request may say so, and how a wrong word is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.triton_adapter.preprocess import RequestInputs
from tests.triton_adapter.test_preprocess import USER, answered, context, make


@pytest.fixture(scope="module")
def shown_switch(model_folder: Path) -> Iterator[Callable[[dict[str, Any]], str]]:
    """What the template sees of enable_thinking."""
    preprocessor = make(model_folder, chat_template="{{ 'undefined' if enable_thinking is not defined else enable_thinking }}")

    def run(fields: dict[str, Any]) -> str:
        chat = json.dumps({"messages": USER, **fields})
        return context(answered(preprocessor, RequestInputs(chat=chat, exclude_input_in_output=False))).echo

    yield run
    preprocessor.close()


class TestThinkingSwitch:
    @pytest.mark.parametrize(
        ("fields", "value"),
        [
            ({}, "undefined"),
            ({"enable_thinking": False}, "False"),
            ({"chat_template_kwargs": {"enable_thinking": True}}, "True"),
            ({"chat_template_kwargs": {"enable_thinking": None}}, "undefined"),
            ({"metadata": {"enable_thinking": False, "other": "x"}}, "False"),
            ({"metadata": {"enable_thinking": "true"}}, "True"),
            ({"enable_thinking": True, "metadata": {"enable_thinking": False}}, "True"),
            ({"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}, "False"),
            ({"enable_thinking": False, "chat_template_kwargs": {"options": {"thinking_mode": "open"}}}, "True"),
            ({"enable_thinking": False, "chat_template_kwargs": {"options": {"thinking_mode": None}}}, "False"),
            ({"reasoning_effort": "none"}, "False"),
            ({"reasoning_effort": "minimal"}, "True"),
            ({"reasoning_effort": "none", "metadata": {"enable_thinking": True}}, "True"),
            ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, "False"),
            ({"chat_template_kwargs": {"reasoning_effort": "none"}}, "False"),
            ({"chat_template_kwargs": {"reasoning_effort": "low"}}, "True"),
            ({"chat_template_kwargs": {"reasoning_effort": None}}, "undefined"),
            ({"metadata": {"reasoning_effort": "none"}}, "False"),
            ({"metadata": {"reasoning_effort": "low"}, "chat_template_kwargs": {"reasoning_effort": "none"}}, "True"),
            ({"reasoning_effort": "low", "metadata": {"reasoning_effort": "none"}}, "True"),
            ({"chat_template_kwargs": {"reasoning_effort": "none", "enable_thinking": True}}, "True"),
            ({"enable_thinking": False, "chat_template_kwargs": {"options": {"thinking_mode": "auto"}}}, "True"),
            ({"enable_thinking": False, "chat_template_kwargs": {"options": {"thinking_mode": "Adaptive"}}}, "True"),
            ({"chat_template_kwargs": {"options": {"other": 1}}}, "undefined"),
        ],
    )
    def test_every_route(self, shown_switch: Callable[[dict[str, Any]], str], fields: dict[str, Any], value: str) -> None:
        assert shown_switch(fields) == value

    @pytest.mark.parametrize("place", ["enable_thinking", "metadata", "chat_template_kwargs", "chat_template_kwargs.options.thinking_mode"])
    def test_one_rule_for_every_place(self, shown_switch: Callable[[dict[str, Any]], str], place: str) -> None:
        """FastDeploy's for booleans, which it keeps to in one of them."""

        def fields(value: Any) -> dict[str, Any]:
            if place.endswith("mode"):
                return {"chat_template_kwargs": {"options": {"thinking_mode": value}}}
            return {place: value if place == "enable_thinking" else {"enable_thinking": value}}

        for value in (False, 0, "false", "False", "no", "off", "0", "n"):
            assert shown_switch(fields(value)) == "False", value
        for value in (True, 1, "TRUE", "yes", "on", "1", "y"):
            assert shown_switch(fields(value)) == "True", value
        param = place if "." in place or place == "enable_thinking" else f"{place}.enable_thinking"
        for value in ("maybe", 2, -1, 0.5, [], {}, "closed"):
            with pytest.raises(InvalidRequestError, match=r"must be .*true or false, got ") as caught:
                shown_switch(fields(value))
            assert caught.value.param == param

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"reasoning_effort": "most"}, "reasoning_effort"),
            ({"metadata": {"reasoning_effort": "most"}}, "metadata.reasoning_effort"),
            ({"chat_template_kwargs": {"reasoning_effort": "most"}}, "chat_template_kwargs.reasoning_effort"),
            ({"chat_template_kwargs": {"options": "close"}}, "chat_template_kwargs.options"),
        ],
    )
    def test_what_is_wrong_is_named_by_its_place(
        self, shown_switch: Callable[[dict[str, Any]], str], fields: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            shown_switch(fields)
        assert caught.value.param == param and caught.value.message.startswith(f"{param} must be ")
