"""Writes docs/settings.md, docs/formats.md, the tables of docs/distillation.md and the JSON schemas from the code:
`make docs`. A test holds them."""

import ast
import inspect
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ft_pipeline.distillation import answer_filters
from ft_pipeline.models.endpoint.responses import RULES, Rule
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.yaml_file import section_of
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import FILE_CODES, ROW_CODES

HERE = Path(__file__).parent
FORMATS = """\
# Formats, and what happens to every row

One rule: **read = accepted + quarantined + duplicates**, for every file, always. What is not used stands in the table
`quarantine` with its file, row, reason and raw text; a file that cannot be read is refused as a whole and fails its
table's blocking check until it is mended or removed.

| format | folder | a row |
|---|---|---|
| alpaca | `data/raw/alpaca` | `instruction`, `output`; optional `input`, `system`, `history` |
| sharegpt | `data/raw/sharegpt` | `conversations`: list of `{from, value}`; common synonyms are mapped |
| text | `data/raw/text` | `text` |
| preferences | `data/raw/preferences` | `prompt`, `chosen`, `rejected` |
| unlabelled | `data/raw/unlabelled` | `instruction` and optional `input`, or a conversation that ends with the human |

JSONL or a JSON array (the content decides), CSV under `.csv`, Parquet under `.parquet`; UTF-8. Try a file before it is
in the folder: `ft validate FILE --format FORMAT`.

A turn of the model may have `reasoning_content`. Turns of tools are quarantined unless a sidecar maps their roles:
`roles: {function_call: gpt, observation: tool}` trains the model to write the call and shows it the result; a role that
becomes `tool` is kept and never trained. Calls beside the text (`tool_calls`) are not read. Whether the base model's
chat template has such turns is checked before training: one that drops a turn stops it, and reasoning that it has no
place for is counted and named.

A YAML beside a file (`support.csv`, `support.yaml`) says how to read it:

"""

FILTERS = {
    "teacher_failed": "no answer (above), or the prompt does not fit the context of a teacher on this machine",
    "empty_output": "nothing but white space and zero-width characters",
    "special_tokens": "a control token of a chat template",
    "repetition": f"more than {answer_filters.MAX_REPETITION:.0%} of its "
    f"{answer_filters.REPETITION_WORDS}-word sequences stood in it before",
    "answer_cut_off": "no end within `max_new_tokens`",
    "refusal_boilerplate": "a stock phrase with which a model declines (*as an AI language model I*, *I don't have "
    "access*); a policy that says no is none",
    "unresolved_placeholder": "a hole: `{{name}}`, `[Your Name]`, `<your name>`",
    "output_equals_input": f"more than {answer_filters.MAX_COPY:.0%} of its {answer_filters.COPY_WORDS}-word "
    f"sequences stand in one turn of the prompt, or more than {answer_filters.MAX_EXAMPLE_COPY:.0%} in the system "
    "prompt or an example; or a number of four digits or more that only an example has",
    "answer_length": f"shorter than {answer_filters.LENGTH_SLACK[0]:g} × the "
    f"{answer_filters.LENGTH_PERCENTILES[0]:g}st percentile of people's answers in the train split, in characters, "
    f"or longer than {answer_filters.LENGTH_SLACK[1]:g} × the "
    f"{answer_filters.LENGTH_PERCENTILES[1]:g}th; not judged with under {answer_filters.MIN_HUMAN_ANSWERS} of them",
}
"""By code, in the order of answer_filters.CHECKS."""

FAILURES = "| what happens | reason | asked again | paid | the answer's code |\n|---|---|---|---|---|\n"


def main() -> None:
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The generated files, by path from docs/."""
    intro = "# Settings\n\nWritten by `make docs` from the files of ft_pipeline/settings/. "
    intro += "An unknown key is an error.\n\n"
    project = "## project.yaml\n\n" + describe(ProjectSettings)
    experiment = "## experiments/NAME.yaml\n\n" + describe(ExperimentSettings)
    codes = "\n## Reason codes of rows\n\n" + _table(ROW_CODES) + "\n## Reason codes of files\n\n" + _table(FILE_CODES)
    distillation = (HERE / "distillation.md").read_text(encoding="utf-8")
    distillation = _between(distillation, "failures", FAILURES + "".join(map(_failure, RULES, RULES.values())))
    distillation = _between(distillation, "filters", "| code | threshold |\n|---|---|\n" + "".join(_rows(FILTERS)))
    return {
        "settings.md": intro + project + "\n" + experiment,
        "formats.md": FORMATS + describe(Sidecar) + codes,
        "distillation.md": distillation,
        "../schemas/project.json": _schema(ProjectSettings),
        "../schemas/experiment.json": _schema(ExperimentSettings),
    }


def _between(page: str, name: str, text: str) -> str:
    """The page with what stands between the two marks of `name` written anew."""
    before, begin, rest = page.partition(f"<!-- {name}: written by make docs -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->\n")
    return before + begin + text + end + after


def _failure(reason: str, rule: Rule) -> str:
    again = "stops the run" if rule.stop else "yes" if rule.retry else "no, settled" if rule.settled else "no"
    return f"| {rule.meaning} | `{reason}` | {again} | {rule.bill} | `{rule.code}` |\n"


def _schema(model: type[BaseModel]) -> str:
    """For an editor's YAML language server: completes keys, shows what they mean, marks what is unknown."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def describe(model: type[BaseModel], prefix: str = "") -> str:
    """A table of the model's own keys, then one of each section."""
    comments = _comments(model)
    own, sections = [], []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            sections.append(
                f"\n### {prefix}{name}\n\n{inspect.getdoc(section)}\n\n{describe(section, f'{prefix}{name}.')}"
            )
        if section is None or section is not field.annotation:
            own.append(f"| `{prefix}{name}` | {_default(field)} | {_kind(field)} | {comments.get(name, '')} |")
        if section is None and (each := _section(field)) is not None:
            sections.append(f"\n### each of {prefix}{name}\n\n{describe(each)}")
    head = "| key | default | type | |\n|---|---|---|---|\n" if own else ""
    return head + "".join(f"{line}\n" for line in own) + "".join(sections)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    shown = "null" if value is None else str(sorted(value)) if isinstance(value, frozenset) else str(value)
    return f"`{shown}`" if shown else "empty"


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    text = re.sub(r"ft_pipeline\.settings\.\w+\.", "", text)
    for long, short in (
        ("typing.", ""),
        ("Literal", "one of "),
        ("|", "or"),
        ("None", "null"),
    ):
        text = text.replace(long, short)
    return text.replace("|", "\\|") + "".join(f", {_limit(each)}" for each in field.metadata)


def _limit(limit: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for name, sign in signs.items():
        if hasattr(limit, name):
            return f"{sign} {getattr(limit, name)}"
    return f"matches `{limit.pattern}`" if hasattr(limit, "pattern") else str(limit)


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """The string under each attribute in the source."""
    body = ast.parse(inspect.getsource(model)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for before, after in itertools.pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else ""
            found[before.target.id] = " ".join(str(text).split()).replace("|", "\\|")
    return found


def _table(codes: dict[str, str]) -> str:
    return "| code | meaning |\n|---|---|\n" + "".join(_rows(codes))


def _rows(codes: dict[str, str]) -> Iterator[str]:
    return (f"| `{code}` | {text} |\n" for code, text in codes.items())


if __name__ == "__main__":
    main()
