"""Read a YAML file of settings as a typed model. An error names the file, the line, the value and the fix."""

import difflib
import functools
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, PydanticUndefined

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.settings.bounded_yaml import BoundedLoader, load_bounded
from ft_pipeline.settings.secret_shapes import find_secret

_MAX_FAULTS_SHOWN = 5
"""Number of faults of a file that one error names."""
_MAX_VALUE_CHARS = 120
"""Number of characters of a value that are shown."""
_MAX_PARSED = 1024
"""Number of contents of files that a process keeps parsed."""
_ABSENT = object()
"""Stands for a value that the document does not have, since None can be a value."""
_RULE = "rule"
"""Type of the faults that rule_error makes."""
_EXPECTATION_PREFIX = "input should be "

Fault = Any
"""One entry of pydantic's ValidationError.errors(): a dict with type, location, message and input."""
KeyPath = tuple[str, ...]
"""Where a value is in the document: the keys (and positions in lists) that lead to it."""


class Section(BaseModel):
    """A block of settings. An unknown key is an error, so that a typo never trains with a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_boolean_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean where a number is expected: pydantic would read `r: true` as 1."""
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            if {int, float} & {annotation, *get_args(annotation)}:
                raise PydanticCustomError("yes_or_no", "input should be a number")
        return value


def later(default: Any = PydanticUndefined, *, default_factory: Callable[[], Any] | None = None, **rules: Any) -> Any:
    """A key that was added after the first projects ran. Specs leave it out while it has its default, so that a new
    version of the package changes no old spec. rules: further arguments of pydantic's Field."""
    unset = default_factory() if default_factory else default
    given = {"default_factory": default_factory} if default_factory else {"default": default}
    return Field(**given, exclude_if=lambda value: value == unset, **rules)


def rule_error(key: str, message: str) -> PydanticCustomError:
    """Return the error of a rule over several settings of a section. `read_settings` adds the line of `key`, which is
    dotted and relative to the section."""
    return PydanticCustomError(_RULE, "{message}", {"key": key, "message": message})


SectionT = TypeVar("SectionT", bound=Section)


def read_settings(path: Path, model: type[SectionT], *, despite_secrets: bool = False) -> SectionT:
    """Read a YAML file into `model`. UserError with the file, the line, the value and the fix of its faults.

    despite_secrets: a secret alone is no fault.

    A file is read each time, but the same content is parsed once per process: a plan asks for each experiment often.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read ({error}). Save it as a UTF-8 YAML file.") from error
    settings, error_message = _parse_once(path.name, text, model, despite_secrets)
    if settings is None:
        raise UserError(error_message)
    return settings


@functools.lru_cache(maxsize=_MAX_PARSED)
def _parse_once(name: str, text: str, model: type[SectionT], despite_secrets: bool) -> tuple[SectionT | None, str]:
    """Return (settings, ""), or (None, the message of the error), which is kept as well."""
    try:
        return _parse_settings(name, text, model, despite_secrets), ""
    except UserError as error:
        return None, str(error)


def _parse_settings(name: str, text: str, model: type[SectionT], despite_secrets: bool) -> SectionT:
    root, document = _parse_yaml(name, text)
    if document is None:
        raise UserError(f"{name} is empty. Write `key: value` lines, or remove the file.")
    if not isinstance(document, dict):
        raise UserError(f"{name} contains {_describe_value(document)}. Write `key: value` lines instead.")
    return validate_document(name, document, model, root, despite_secrets=despite_secrets)


def validate_document(
    name: str,
    document: dict[str, Any],
    model: type[SectionT],
    root: yaml.Node | None = None,
    *,
    despite_secrets: bool = False,
) -> SectionT:
    """Return the settings in `document`. UserError that begins with `name`, and has lines if `root` is given."""
    secret = find_secret(document)
    if secret and not despite_secrets:
        raise UserError(_describe_secret(name, *secret, root))
    try:
        return model.model_validate(document)
    except ValidationError as error:
        if secret:  # other errors may repeat the value
            raise UserError(_describe_secret(name, *secret, root)) from None
        faults = list(_faults_by_path(error, document).items())[:_MAX_FAULTS_SHOWN]
        lines = [_describe(name, key_path, same_path, root, model) for key_path, same_path in faults]
        sentences = [line if line.endswith((".", "?")) else f"{line}." for line in lines]
        raise UserError(" ".join(sentences)) from None


def refuse_secret(path: Path) -> None:
    """Raise UserError if a YAML file of settings contains a secret. Any other fault of it is left to read_settings."""
    try:
        root, document = _parse_yaml(path.name, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UserError):
        return
    if secret := find_secret(document):
        raise UserError(_describe_secret(path.name, *secret, root))


def _describe_secret(name: str, path: KeyPath, what: str, root: yaml.Node | None) -> str:
    line = _line_of(root, path)
    where = f"{name}: line {line}: " if line else f"{name}: "
    return (
        f"{where}`{'.'.join(path) or 'a key'}` contains {what}, which would be stored and shown. Remove it, and set it "
        "in the environment; `api_key_env` names the variable of an endpoint."
    )


def _parse_yaml(name: str, text: str) -> tuple[yaml.Node | None, Any]:
    """Return (nodes with their lines, document). UserError if the text is not YAML, or has a duplicate key."""
    try:
        root = yaml.compose(text, Loader=BoundedLoader)
        if duplicate := _find_duplicate_key(root):
            key, first, second = duplicate
            raise UserError(f"{name}: line {second}: duplicate key `{key}`, first in line {first}. Merge the two.")
        return root, load_bounded(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{name}:{line} not valid YAML: {problem}") from error
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        line_number = _line_of_invalid_scalar(root)
        raise UserError(
            f"{name}: line {line_number}: the value cannot be read ({error}). Put it in quotes, or correct it."
        ) from None


def _line_of_invalid_scalar(node: yaml.Node | None) -> int | None:
    """Return the line of the first scalar whose value YAML cannot read."""
    if isinstance(node, yaml.ScalarNode):
        try:
            BoundedLoader("").construct_object(node)
        except ValueError:
            return node.start_mark.line + 1
        return None
    children = node.value if node is not None else ()
    nodes = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    return next(filter(None, map(_line_of_invalid_scalar, nodes)), None)


def _find_duplicate_key(node: yaml.Node | None) -> tuple[str, int, int] | None:
    """Return (key, first line, second line) of a duplicate key in one mapping. YAML itself silently takes the last."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_find_duplicate_key, node.value)), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            return name, lines[name], line
        lines[name] = line
        if (duplicate := _find_duplicate_key(value)) is not None:
            return duplicate
    return None


def _faults_by_path(error: ValidationError, document: Any) -> dict[KeyPath, list[Fault]]:
    """Return the faults of each value, by its path. A field of several types has one fault for each type."""
    faults: dict[KeyPath, list[Fault]] = {}
    for fault in error.errors():
        faults.setdefault(_path_of(fault, document), []).append(fault)
    # A fault inside a value says more than a fault that the whole value has another type.
    return {
        path: same_path for path, same_path in faults.items() if not any(_is_inside(other, path) for other in faults)
    }


def _is_inside(inner: KeyPath, outer: KeyPath) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _path_of(fault: Fault, document: Any) -> KeyPath:
    """Return the path of a fault's value, without the names that pydantic gives the types of a union (`list[str]`)."""
    path: list[str] = []
    *parents, last = fault["loc"] or ("",)
    for part in parents:
        if (child := _child(document, part)) is not _ABSENT:
            path.append(str(part))
            document = child
    if last != "" and (fault["type"] == "missing" or _child(document, last) is not _ABSENT):
        path.append(str(last))
    return (*path, *fault["ctx"]["key"].split(".")) if fault["type"] == _RULE else tuple(path)


def _child(document: Any, part: int | str) -> Any:
    """Return the value at a key of a mapping or a position of a list; _ABSENT if there is none."""
    if isinstance(document, dict):
        return next((value for key, value in document.items() if str(key) == str(part)), _ABSENT)
    return document[part] if isinstance(document, list) and isinstance(part, int) else _ABSENT


def _describe(name: str, path: KeyPath, faults: list[Fault], root: yaml.Node | None, model: type[Section]) -> str:
    """Return the message about the faults of one value of the file `name`."""
    fault = faults[0]
    line = _line_of(root, path)
    where = f"{name}: line {line}: " if line else f"{name}: "
    key = ".".join(path) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{where}unknown key `{key}`. {_hint_for_unknown_key(model, path)}"
    if fault["type"] == "invalid_key":
        keys = ", ".join(_known_keys(model, path[:-1]))
        return f"{where}{fault['input']!r} is not a valid key. Known keys: {keys}"
    if fault["type"] == "value_error":
        return f"{where}{fault['ctx']['error']}"
    if fault["type"] == _RULE:
        return f"{where}{fault['msg']}"
    if fault["type"] == "missing":
        return f"{where}`{key}` is missing. Add it."
    first, *alternatives = dict.fromkeys(map(_expectation, faults))
    expected = first + "".join(f", or {text.removeprefix(_EXPECTATION_PREFIX)}" for text in alternatives)
    return f"{where}`{key}` is {_describe_value(fault['input'])}: {expected}"


def _expectation(fault: Fault) -> str:
    """Return what the value should be, as "input should be …"."""
    if fault["type"] in ("model_type", "dict_type"):
        return "input should be a block of `key: value` lines"
    if fault["type"] == "list_type":
        return "input should be a list: [first, second]"
    return str(fault["msg"][0].lower() + fault["msg"][1:])


def _describe_value(value: Any) -> str:
    """Return a value as YAML writes it, cut off after _MAX_VALUE_CHARS characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"


def _hint_for_unknown_key(model: type[BaseModel], path: KeyPath) -> str:
    """Return a hint for an unknown key: the other section that has it, a similar key, or the known keys."""
    keys = _known_keys(model, path[:-1])
    sections = [name for name in _sections(model) if path[-1] in _known_keys(model, (name,))]
    if len(sections) == 1 and len(path) <= 2:  # deeper inside, it is a typo
        return f"Move it to `{sections[0]}`."
    similar = difflib.get_close_matches(path[-1], keys, n=1)
    return f"Did you mean `{similar[0]}`?" if similar else f"Known keys: {', '.join(keys)}"


def _sections(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if section_of(field.annotation) is not None]


def _line_of(node: yaml.Node | None, path: KeyPath) -> int | None:
    """Return the line (from 1) of the deepest part of `path` that is in the YAML document."""
    line = None
    for part in path:
        if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        entry = next(((key, value) for key, value in node.value if key.value == part), None)
        if entry is None:
            break
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line


def _known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys of the section at `path`, which may lead through lists and names; none if there is no section."""
    annotation: Any = model
    for part in path:
        if get_origin(annotation) in (list, dict):
            annotation = get_args(annotation)[-1]
            continue
        section = _section_among(annotation)
        if section is None or part not in section.model_fields:
            return []
        annotation = section.model_fields[part].annotation
    section = _section_among(annotation)
    return [] if section is None else list(section.model_fields)


def _section_among(annotation: Any) -> type[BaseModel] | None:
    """Return the section type of a value, also if it may be of another type; None for any other value."""
    types = (annotation, *get_args(annotation))
    return next((part for part in types if isinstance(part, type) and issubclass(part, BaseModel)), None)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section type of a field, also if the field may be null; None for any other field."""
    types = (annotation, *get_args(annotation))
    sections = [part for part in types if isinstance(part, type) and issubclass(part, BaseModel)]
    other_types = [part for part in get_args(annotation) if part is not type(None) and part not in sections]
    return sections[0] if sections and not other_types else None
