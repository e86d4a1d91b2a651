"""A YAML file of settings as a typed model: one error for a slip, with the file, the line, the value and the fix."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ft_pipeline.errors import UserError


class Section(BaseModel):
    """A block of settings; an unknown key is an error, so that a typing slip never trains with a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


SectionT = TypeVar("SectionT", bound=Section)


def read_settings(path: Path, model: type[SectionT]) -> SectionT:
    """Read a YAML file into `model`; a fault is one UserError that names the file, the line, the value and the fix."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: cannot be read ({error}); it must be a UTF-8 YAML file") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path.name}:{line} not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if twice := _key_twice(root):
        key, first, second = twice
        raise UserError(f"{path.name}: line {second}: `{key}` stands in line {first} already; put both into one")
    if not isinstance(document, dict):
        raise UserError(f"{path.name}: must hold `key: value` lines, holds {type(document).__name__}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise UserError("; ".join(_describe(path.name, fault, root, model) for fault in error.errors()[:5])) from None


def _key_twice(node: yaml.Node | None) -> tuple[str, int, int] | None:
    """(key, first line, second line) of a key that one mapping holds twice; YAML itself silently takes the last."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_key_twice, node.value)), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            return str(key.value), lines[key.value], line
        lines[key.value] = line
        if (below := _key_twice(value)) is not None:
            return below
    return None


def _describe(name: str, fault: Any, root: yaml.Node | None, model: type[BaseModel]) -> str:
    location = [str(part) for part in fault["loc"]]
    line = _line_of(root, location)
    where = f"{name}: line {line}: " if line else f"{name}: "
    key = ".".join(location) or "the file"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"
        return f"{where}unknown key `{key}`; {hint}"
    if fault["type"] == "value_error":
        return f"{where}{fault['ctx']['error']}"
    if fault["type"] == "missing":
        return f"{where}`{key}` is required"
    return f"{where}`{key}` is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _line_of(node: yaml.Node | None, location: list[str]) -> int | None:
    """The 1-based line of the deepest key of `location` that the YAML document holds."""
    line = None
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((key, value) for key, value in node.value if key.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        section = section_of(model.model_fields[part].annotation) if part in model.model_fields else None
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, one that may be null included; None for any other field."""
    sections = [
        each for each in (annotation, *get_args(annotation)) if isinstance(each, type) and issubclass(each, BaseModel)
    ]
    others = [each for each in get_args(annotation) if each is not type(None) and each not in sections]
    return sections[0] if sections and not others else None
