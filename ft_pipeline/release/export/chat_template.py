"""A chat template that puts the prompt of a model before what a client sends, as it stood there while it was scored."""

import json
from collections.abc import Mapping, Sequence

Message = Mapping[str, str]


def with_own_prompt(template: str, system_prompt: str | None, examples: Sequence[Sequence[Message]]) -> str:
    """`template` behind a few lines that do to `messages` what models.chat.with_prompt does: the system prompt where
    the client sends none of its own, then the examples, then the conversation.

    The lines write nothing themselves and end with the line break that a template engine removes after a block
    (trim_blocks), so that `template` begins at the start of a line as before.
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
    """A list of messages as Jinja reads it. JSON's strings are Jinja's too, as long as no letter is escaped as \\u."""
    return json.dumps(messages, ensure_ascii=False)
