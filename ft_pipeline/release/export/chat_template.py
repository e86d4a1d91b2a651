"""A chat template that puts a model's prompt before the client's messages, as it was scored."""

import json
from collections.abc import Mapping, Sequence

Message = Mapping[str, str]


def with_own_prompt(template: str, system_prompt: str | None, examples: Sequence[Sequence[Message]]) -> str:
    """Return `template` after a few lines that change `messages` as models.chat.with_prompt does.

    The new messages are the system prompt if the client sends none, the examples, and the conversation. The lines write
    nothing and end with the line break that a template engine removes after a block (trim_blocks), so that `template`
    still begins at the start of a line.
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    shots = [dict(message) for example in examples for message in example if message["role"] != "system"]
    if not system and not shots:
        return template
    return (
        "{%- if messages and messages[0]['role'] == 'system' %}"
        f"{{%- set messages = messages[:1] + {_literal(shots)} + messages[1:] %}}"
        f"{{%- else %}}{{%- set messages = {_literal([*system, *shots])} + messages %}}{{%- endif %}}\n{template}"
    )


def _literal(messages: Sequence[Message]) -> str:
    """Return a list of messages as a Jinja literal. JSON strings are valid Jinja if no letter is escaped as \\u."""
    return json.dumps(messages, ensure_ascii=False)
