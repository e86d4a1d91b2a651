"""A chat template that puts the prompt with which a model was scored before the client's messages."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]


def template_with_prompt(
    template: str,
    system_prompt: str | None,
    examples: Sequence[Sequence[Message]],
    *,
    replace_system: bool = False,
) -> str:
    """Return the template with lines in front that change `messages` as models.chat.with_prompt does.

    The new messages are the client's system prompt, or else the model's (with replace_system, the model's if it has
    one); the examples; and the conversation. The added lines write nothing. They end with the line break that a
    template engine removes after a block (trim_blocks), so that `template` still begins at the start of a line.
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    example_turns = [dict(message) for example in examples for message in example if message["role"] != "system"]
    if not system and not example_turns:
        return template
    examples_only, prompt = _jinja_literal(example_turns), _jinja_literal([*system, *example_turns])
    with_own_system = (
        f"{prompt} + messages[1:]" if replace_system and system else f"messages[:1] + {examples_only} + messages[1:]"
    )
    return (
        "{%- if messages and messages[0]['role'] == 'system' %}"
        f"{{%- set messages = {with_own_system} %}}"
        f"{{%- else %}}{{%- set messages = {prompt} + messages %}}{{%- endif %}}\n{template}"
    )


TURNS_VARIABLE, TOOLS_VARIABLE = "ft_messages", "ft_tools"
"""Variables of a template with a client's turns and tools."""
ENGINE_VARIABLES = {"enable_thinking": "ft_enable_thinking", "date_string": "ft_date_string"}
"""Variables that llama.cpp sets and transformers does not, each with the variable that has a client's value."""


def template_with_variables(template: str) -> str:
    """Return the template with a line in front that takes turns and tools from variables, if a request sets them.

    llama.cpp changes turns and tools before its templates read them. It leaves other variables as they are. What it
    sets itself is undefined again, as in training, unless the client sets it.
    """
    values = {"messages": TURNS_VARIABLE, "tools": TOOLS_VARIABLE, **ENGINE_VARIABLES}
    lines = "".join(f"{{%- set {name} = {value} %}}" for name, value in values.items())
    return f"{{%- if {TURNS_VARIABLE} is defined %}}{lines}{{%- endif %}}\n{template}"


WHOLE_TURN = "ft_turn"
"""The key in the first call of a turn under which a client's whole turn is found."""


def template_with_whole_turns(template: str) -> str:
    """Return the template with a line in front that restores turns which `packed_turn` packed."""
    return (
        "{%- set ft = namespace(turns=[]) %}{%- for message in messages %}"
        f"{{%- set whole = message.tool_calls[0].{WHOLE_TURN} if message.tool_calls else none %}}"
        "{%- set ft.turns = ft.turns + [whole or message] %}{%- endfor %}"
        f"{{%- set messages = ft.turns %}}\n{template}"
    )


def packed_turn(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn, as templates read it, such that `transformers serve` shows all of it to the template.

    That engine keeps only the calls of a turn that has some, and else only its text. It keeps all keys of a call.
    """
    if turn.keys() <= {"role", "content", "tool_call_id"}:
        return turn
    call = {"type": "function", "function": {"name": "", "arguments": "{}"}, WHOLE_TURN: dict(turn)}
    return {"role": turn["role"], "content": "", "tool_calls": [call]}


def _jinja_literal(messages: Sequence[Message]) -> str:
    """Return a list of messages as a Jinja literal. JSON strings are valid Jinja if no character is escaped as \\u."""
    return json.dumps(messages, ensure_ascii=False)
