"""Read a YAML file of settings as a typed model. An error names the file, the line, the value and the fix."""

import difflib
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ft_pipeline.errors import UserError, first_line

_SHOWN = 5
"""Number of faults of a file that one error names."""
_WIDE = 120
"""Number of characters of a value that are shown."""
_ABSENT = object()
_RULE = "rule"
"""Type of the faults that rule_error makes."""
_BEGIN = "input should be "


class Section(BaseModel):
    """A block of settings. An unknown key is an error, so that a typo never trains with a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, given: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean as a number: pydantic would read `r: true` as 1."""
        if isinstance(given, bool) and info.field_name is not None:
            wanted = cls.model_fields[info.field_name].annotation
            if {int, float} & {wanted, *get_args(wanted)}:
                raise PydanticCustomError("yes_or_no", "input should be a number")
        return given


def rule_error(key: str, message: str) -> PydanticCustomError:
    """Return the error of a rule over several settings of a section. `read_settings` gives the line of `key`, which is
    dotted and relative to the section."""
    return PydanticCustomError(_RULE, "{message}", {"key": key, "message": message})


SectionT = TypeVar("SectionT", bound=Section)


def read_settings(path: Path, model: type[SectionT]) -> SectionT:
    """Read a YAML file into `model`. UserError with the file, the line, the value and the fix of its faults."""
    root, document = _read_yaml(path)
    if document is None:
        raise UserError(f"{path.name} is empty. Write `key: value` lines, or remove the file.")
    if not isinstance(document, dict):
        raise UserError(f"{path.name} contains {_shown(document)}. Write `key: value` lines instead.")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = _by_place(error, document)
        lines = [_describe(path.name, place, causes, root, model) for place, causes in list(faults.items())[:_SHOWN]]
        raise UserError(" ".join(line if line.endswith((".", "?")) else f"{line}." for line in lines)) from None


def _read_yaml(path: Path) -> tuple[yaml.Node | None, Any]:
    """(nodes with their lines, document). UserError if the file is not YAML, or has a duplicate key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read ({error}). Save it as a UTF-8 YAML file.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if twice := _key_twice(root):
            key, first, second = twice
            raise UserError(f"{path.name}: line {second}: duplicate key `{key}`, first in line {first}. Merge the two.")
        return root, yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{path.name}:{line} not valid YAML: {problem}") from error
    except RecursionError:
        raise UserError(
            f"{path.name} is not valid YAML: it is nested too deeply, or an anchor contains itself. Simplify it."
        ) from None
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        line_number = _unreadable(root)
        raise UserError(
            f"{path.name}: line {line_number}: the value cannot be read ({error}). Put it in quotes, or correct it."
        ) from None


def _unreadable(node: yaml.Node | None) -> int | None:
    """The line of the first scalar whose value YAML cannot read."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.SafeLoader("").construct_object(node)
        except ValueError:
            return node.start_mark.line + 1
        return None
    children = node.value if node is not None else ()
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    return next(filter(None, map(_unreadable, parts)), None)


def _key_twice(node: yaml.Node | None) -> tuple[str, int, int] | None:
    """(key, first line, second line) of a duplicate key in one mapping. YAML itself silently takes the last one."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_key_twice, node.value)), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            return name, lines[name], line
        lines[name] = line
        if (below := _key_twice(value)) is not None:
            return below
    return None


def _by_place(error: ValidationError, document: Any) -> dict[tuple[str, ...], list[Any]]:
    """The faults by their place in the document. A field of several types has one fault for each type."""
    by_place: dict[tuple[str, ...], list[Any]] = {}
    for fault in error.errors():
        by_place.setdefault(_place(fault, document), []).append(fault)
    # A fault inside a value says more than a fault that the whole value has another type.
    return {place: faults for place, faults in by_place.items() if not any(_within(inner, place) for inner in by_place)}


def _within(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _place(fault: Any, document: Any) -> tuple[str, ...]:
    """The place of a fault, without the names that pydantic gives the types of a union (`list[str]`)."""
    place: list[str] = []
    *rest, last = fault["loc"] or ("",)
    for part in rest:
        if (below := _below(document, part)) is not _ABSENT:
            place.append(str(part))
            document = below
    if last != "" and (fault["type"] == "missing" or _below(document, last) is not _ABSENT):
        place.append(str(last))
    return (*place, *fault["ctx"]["key"].split(".")) if fault["type"] == _RULE else tuple(place)


def _below(document: Any, part: int | str) -> Any:
    if isinstance(document, dict):
        return next((value for key, value in document.items() if str(key) == str(part)), _ABSENT)
    return document[part] if isinstance(document, list) and isinstance(part, int) else _ABSENT


def _describe(
    name: str, place: tuple[str, ...], faults: list[Any], root: yaml.Node | None, model: type[Section]
) -> str:
    fault = faults[0]
    line = _line_of(root, place)
    where = f"{name}: line {line}: " if line else f"{name}: "
    key = ".".join(place) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{where}unknown key `{key}`. {_meant(model, place)}"
    if fault["type"] == "invalid_key":
        known = ", ".join(_known_keys(model, place[:-1]))
        return f"{where}{fault['input']!r} is not a valid key. Known keys: {known}"
    if fault["type"] == "value_error":
        return f"{where}{fault['ctx']['error']}"
    if fault["type"] == _RULE:
        return f"{where}{fault['msg']}"
    if fault["type"] == "missing":
        return f"{where}`{key}` is missing. Add it."
    first, *alternatives = dict.fromkeys(map(_wanted, faults))
    wanted = first + "".join(f", or {alternative.removeprefix(_BEGIN)}" for alternative in alternatives)
    return f"{where}`{key}` is {_shown(fault['input'])}: {wanted}"


def _wanted(fault: Any) -> str:
    if fault["type"] in ("model_type", "dict_type"):
        return "input should be a block of `key: value` lines"
    if fault["type"] == "list_type":
        return "input should be a list: [first, second]"
    return str(fault["msg"][0].lower() + fault["msg"][1:])


def _shown(value: Any) -> str:
    """A value as YAML writes it, cut off after _WIDE characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= _WIDE else f"{text[:_WIDE]}…"


def _meant(model: type[BaseModel], place: tuple[str, ...]) -> str:
    """A hint for an unknown key: the other section that has it, a similar key, or the known keys."""
    known = _known_keys(model, place[:-1])
    homes = [name for name in _sections(model) if place[-1] in _known_keys(model, (name,))]
    if len(homes) == 1:
        return f"Move it to `{homes[0]}`."
    close = difflib.get_close_matches(place[-1], known, n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Known keys: {', '.join(known)}"


def _sections(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if section_of(field.annotation) is not None]


def _line_of(node: yaml.Node | None, place: tuple[str, ...]) -> int | None:
    """The line (from 1) of the deepest part of `place` that is in the YAML document."""
    line = None
    for part in place:
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


def _known_keys(model: type[BaseModel], place: tuple[str, ...]) -> list[str]:
    for part in place:
        section = section_of(model.model_fields[part].annotation) if part in model.model_fields else None
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section type of a field, also if the field may be null; None for any other field."""
    sections = [
        part for part in (annotation, *get_args(annotation)) if isinstance(part, type) and issubclass(part, BaseModel)
    ]
    others = [part for part in get_args(annotation) if part is not type(None) and part not in sections]
    return sections[0] if sections and not others else None
