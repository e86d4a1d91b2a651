"""Set variables in the chat template of a model folder, so that everything that renders it uses the same values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.file_scan import read_json

Variables = Mapping[str, bool | int | float | str]
_SET_BY_TRANSFORMERS = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")


def set_template_variables(folder: Path, variables: Variables) -> None:
    """Write the chat template of a folder again, with lines in front that set `variables`.

    UserError if there is no template, or it does not read a variable. The files must not be links.
    """
    template, config_file = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if template.is_file():
        template.write_text(_with_variables(template.read_text(encoding="utf-8"), variables), encoding="utf-8")
        return
    config = read_json(config_file, folder.name)
    stored: str | list[dict[str, Any]] | None = config.get("chat_template")
    if not stored:
        raise UserError("The base model has no chat template that could read `chat_template_kwargs`. Remove the key.")
    config["chat_template"] = (
        _with_variables(stored, variables)
        if isinstance(stored, str)
        else [{**named, "template": _with_variables(named["template"], variables)} for named in stored]
    )
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _with_variables(template: str, variables: Variables) -> str:
    """Return the template with its variables set.

    The added line writes nothing. Its line break is removed after a block (trim_blocks), so that `template` still
    begins at the start of a line.
    """
    known = _variables_of(template)
    for name in variables:
        if name not in known:
            others = sorted(known.difference(_SET_BY_TRANSFORMERS))
            names = f"It reads {', '.join(others)}" if others else "It reads no such variables"
            raise UserError(
                f"The chat template of the base model does not read `{name}`. {names}; change `chat_template_kwargs`."
            )
    # JSON is Jinja: both write true, 1.5 and "text" alike.
    lines = "".join(
        f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}" for name, value in sorted(variables.items())
    )
    return f"{lines}\n{template}"


def _variables_of(template: str) -> frozenset[str]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _get_template_variables

    try:
        return frozenset(_get_template_variables(template))
    except TemplateError as error:
        raise UserError(
            f"The chat template of the base model is not valid ({error}). Correct it, or choose another base_model."
        ) from error
