"""JSON answers that are valid by a JSON Schema of the project."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.metrics.json_text import find_object
from ft_pipeline.evaluation.metrics.project_metric import SHOWN, ProjectMetric
from ft_pipeline.models.tool_call_values import parse_json


def read_schema(name: str, root: Path, file: str) -> Any:
    """Return the schema in a file. UserError if it is no JSON Schema, or refers to another file.

    name: the metric. file: the file as the settings name it, relative to the project folder.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    where, path = f"evaluation.metrics.{name}: the schema {file}", (root / file).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(f"{where} is outside the project folder. Copy it into the folder.")
    try:
        schema = parse_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{where} does not exist or cannot be read. Correct `schema`, or add the file.") from None
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}). Correct the file.") from None
    if not isinstance(schema, dict) or not schema:
        shown = json.dumps(schema)[:SHOWN]
        raise UserError(f"{where} is {shown}, which allows everything or nothing. Write an object with `properties`.")
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path)) or "the whole file"
        raise UserError(f"{where} is no JSON Schema: {place}: {first_line(error)}. Correct the file.") from None
    for reference in _references(schema):
        if not _is_inside(schema, reference):
            raise UserError(
                f"{where} refers to {reference!r}, which is not in it. Put the definition under `$defs` of the file."
            )
    return schema


class SchemaCheck(ProjectMetric):
    """Validates JSON answers."""

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.schema = schema

    @property
    def definitions(self) -> dict[str, Metric]:
        return {self.name: Metric(self.name, False, "share", "answers whose JSON is valid by the schema")}

    def score(self, item: Item, answer: str) -> dict[str, Any]:
        return {self.name: float(self._fault(answer) is None)}

    def check_references(self, items: Sequence[Item], all_items: Sequence[Item]) -> None:
        faults = [self._fault(item.reference) for item in items]
        if None not in faults:
            shown = items[0].reference[:SHOWN]
            raise self.error(
                f"none of the {len(items)} references is valid by the schema. The first is {shown!r}: {faults[0]}",
                "Correct the schema, or remove the metric.",
            )

    def _fault(self, text: str) -> str | None:
        """Return why a text is not valid; None if it is."""
        found = find_object(text)
        if found is None:
            return "it has no JSON object"
        try:
            error = next(self._validator.iter_errors(found), None)
        except RecursionError:
            raise self.error("the schema refers to itself without end", "Correct its `$ref`.") from None
        return None if error is None else first_line(error)

    @cached_property
    def _validator(self) -> Any:
        from jsonschema.validators import validator_for
        from referencing import Registry

        return validator_for(self.schema)(self.schema, registry=Registry())  # never downloads a schema


def _references(schema: Any) -> Iterator[str]:
    """Yield every `$ref` in a schema."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference
    for value in schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ():
        yield from _references(value)


def _is_inside(schema: Mapping[str, Any], reference: str) -> bool:
    """Return whether a `$ref` leads to a definition in the same schema."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(schema)
    try:
        Registry().with_resource(resource.id() or "", resource).resolver(resource.id() or "").lookup(reference)
    except Unresolvable:
        return False
    return True
