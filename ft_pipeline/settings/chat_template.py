"""Variables of a chat template, as experiments and the teacher set them."""

TemplateVariables = dict[str, bool | int | float | str]
"""Name → value."""
_OURS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}
)
"""Variables that are set for each conversation."""


def check_template_variables(variables: TemplateVariables) -> TemplateVariables:
    """Return the variables. ValueError if one has no valid name, or belongs to each conversation."""
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
