"""Variables of a chat template, as experiments and the teacher set them."""

from typing import Annotated

from pydantic import AfterValidator

_OURS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}
)
"""Variables that are set for each conversation."""


def _check_names(variables: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    for name in variables:
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(
                f"`chat_template_kwargs` contains {name!r}, which is no name of a variable. Write a name such as "
                "enable_thinking."
            )
        if name in _OURS:
            raise ValueError(
                f"`chat_template_kwargs` contains `{name}`, which each conversation sets for itself. Remove it."
            )
    return variables


TemplateVariables = Annotated[dict[str, bool | int | float | str], AfterValidator(_check_names)]
"""Name → value."""
