"""Generates settings.md, formats.md, commands.md, tables of distillation.md and the JSON schemas from the code.

Run it with `make docs`. A test checks that the files are up to date.
"""

import ast
import inspect
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from commands_page import commands_page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ft_pipeline.distillation import answer_filters
from ft_pipeline.models.endpoint.responses import RULES, Rule
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.yaml_file import section_of
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import FILE_CODES, ROW_CODES

HERE = Path(__file__).parent
FORMATS_PAGE = """\
# Formats, and what happens to every row

One rule: **read = accepted + quarantined + duplicates**, for every file, always. Every unused row is listed in the
table `quarantine` with its file, row number, reason and raw text. A file that cannot be read is refused as a whole and
fails its table's blocking check until it is fixed or removed.

Rules judge what people wrote, row by row. pandera then checks every row of each finished table: columns, types, values
that must be there, ids that stand once, and that the account of each file adds up. If its blocking check
`matches_schema` fails, that is a defect of the pipeline and not of the data: report it.

| format | folder | a row |
|---|---|---|
<!-- formats -->

Files are JSONL or a JSON array (detected by content), CSV (`.csv`) or Parquet (`.parquet`), in UTF-8. They may be
compressed (below). Check a file before you put it into the folder: `ft validate FILE --format FORMAT`.

CSV is separated by commas, semicolons or tabs: by what gives the header more columns with names that a format knows. If
that does not decide, it is the comma, unless each comma of the header is followed by a space. Except in traces, a fault
in a column that the format does not read sets no row aside, for example a cell that is not UTF-8, or a key that stands
twice.

A model turn may have `reasoning_content`, and a `weight`: an answer of the weight 0 is shown, not trained, and is no
test item. 1 is the default. Other numbers are refused, since no answer is trained in part. A row in which no answer
would be trained is quarantined. In a pair both answers are trained, of feedback the answer that was rated, and weights
are not read.

Rows of LLaMA-Factory v1 are read, too: `content` as a list of parts `{type: text, reasoning or tool_call, value}`,
whose texts are joined without a break, and `loss_weight`, which is read like `weight`.

Every row may have `tags`, a list of short texts (a single text is one tag). They go with the row through all tables.
The test conversations of a tag are a [slice](evaluation.md#slices-is-it-worse-for-some) of the comparison. Tags and
weights say how a row is used, not what it says: they are no part of its id, and rows that differ in nothing else are
duplicates, of which the first one stays.

Turns with the key `role` may have calls in `tool_calls` or `function_call`, and the roles `tool`, `function` (results)
and `developer` (system). Other names of roles need a sidecar: `roles: {function_call: call, observation: tool}` reads
the text of a turn as a call, and shows its result, which is never trained. With `function_call: gpt` the model learns
to write the text of the call as it is.

Human and model take turns. These are exceptions:

- In chat, feedback and traces, the human may have several turns in a row, as providers allow.
- The text of an answer and its calls may be two turns. They become one, which is trained if one of them is: it has
    the weight 0 only if both have it.
- `allow: [non_alternating]` in a sidecar: no row of the file is set aside for turns in a row of one speaker, or for a
    human turn after the result of a call. Model turns in a row become one, each text on a line of its own.

Before training, the base model's chat template is checked: a template that drops a turn stops the training; a template
without a place for reasoning is reported, with the number of affected turns. What of a row is trained is described in
[From rows to training texts](training-rows.md).

## Turns in the tables

The columns with turns (`messages`, `prompt_messages`, `chosen`, `rejected`, `completion`) are lists of

| key | in | |
|---|---|---|
| `role` | every turn | `system`, `user`, `assistant` or `tool` |
| `content` | every turn | the text; empty if an assistant turn only calls tools, or a tool returned nothing |
| `reasoning_content` | assistant | the text before the answer, or null |
| `tool_calls` | assistant | calls as {`id`, `name`, `arguments`}, or null; `id` may be null |
| `tool_call_id` | tool | the call that is answered, or null |
| `name` | every turn | of the tool or of the speaker, or null |
| `weight` | assistant | 0: shown, not trained; null: trained |

`tools` is a column of its own: the tools that the row declares. `tools` and `arguments` are JSON text without white
space between its parts, because their shape differs from row to row. The keys keep their order, which is what the model
reads and learns to write. `tools` is a list of OpenAI's `{type: function, function: {name, description, parameters}}`.
In a raw file both may be JSON or its text; arguments must be an object. Chat templates get both as objects. A template
that does not write tools or calls is refused.

Rows are compared with their calls; the ids of calls do not count. Rows that differ only in their tools are not equal.

## Compressed files

Files that are compressed with gzip, zstd or bzip2 are read like the file inside. The content decides whether a file is
compressed, so that the suffix `.gz`, `.zst` or `.bz2` may be missing. These rules follow:

- The suffix inside decides about CSV and Parquet: `rows.csv.gz` is CSV.
- The sidecar of `support.jsonl.gz` is `support.yaml`.
- Row numbers are those of the file inside. The snapshot stores the bytes of the compressed file.
- A stream that is cut off or damaged is refused as a whole, before a row is used.
- A file is refused if it expands to more than 64 GiB, or to more than 1 GiB and 200 times its size. Text rarely reaches
  50 times its size, and a file that was made to fill the disk has more than 1,000.
- The file is expanded into a temporary file, piece by piece. That takes disk space, and little memory.
- `ft erase` replaces a row of such a file, and compresses the file again in the same way.
- Archives (zip, tar, 7z, rar), xz, lzma and lz4, and files that are compressed twice, are refused. Unpack them.

## Remote sources

A YAML without a data file of its name may name a remote file. It is read like a local file of that name:

```yaml
# data/raw/alpaca/support.yaml
source: s3://acme-data/support/rows.jsonl.gz
columns: {question: instruction, answer: output}   # any key of a sidecar (below)
```

| `source` | credentials (environment) | `revision` | new revision |
|---|---|---|---|
| `s3://BUCKET/KEY` | `AWS_*`, or the machine's role; else none | version id | version id, else ETag |
| `hf://datasets/OWNER/NAME/FILE` | `HF_TOKEN`, if any | branch, tag or commit, also as `NAME@REVISION` | commit |
| `hf://datasets/OWNER/NAME` | `HF_TOKEN`, if any | the same | commit |
| `https://HOST/FILE` | `FT_SOURCE_TOKEN` as a bearer token, if any | none | ETag, else Last-Modified |

For each of them, `revision: sha256:HASH` pins the content. A version id, a commit and a SHA-256 are pins; a branch or a
tag is none. A whole data set of the hub needs `split`, and `subset` if it has several; `split: test` also makes its
rows test rows, as in every sidecar. S3 needs `pip install 'ft-pipeline[s3]'`; `AWS_ENDPOINT_URL` names another server
that speaks its protocol. `HF_ENDPOINT` names another hub. The suffix of the remote file decides about CSV and Parquet.

**When the network is used.** Materializing `raw_FORMAT` downloads what is new. Before that, it asks each source that is
not pinned for its revision. The sensor `project_changes` asks, too, every 15 minutes. A pinned source is never asked
again. Plans (`ft run --plan`) read what is recorded in data/store/sources, and work without a network. `ft run` asks no
source of its own accord: `ft run --select raw_FORMAT --force` does. Check a source with `ft validate support.yaml
--format FORMAT`: the file is downloaded into a temporary folder.

**What is kept.** The snapshot keeps the bytes by their hash, as those of local files, and lists source, revision and
SHA-256. `ft audit` shows them. A new revision with the same bytes changes nothing. `ft erase
data/raw/FORMAT/support.yaml ROW` erases a row from the kept copies. Erased rows that the source still has are replaced
at the next download; remove them there, too.

**Errors.** A source that does not answer, an answer that is not a file, and a transfer that is cut off fail the
snapshot, with the URL and the answer. An earlier snapshot stays in use. What may pass (no connection, a transfer that
is cut off, an error of the server) is tried three times. A source without ETag and Last-Modified is downloaded by each
materialization, and the sensor cannot notice its changes.

**Safety.** Secrets come from the environment only. A URL with a user name, a password or a signature is refused, and so
is a YAML with a key such as `token`; it is not stored. The values of other parameters of a URL are not shown. The token
for web servers goes to the host in the YAML; `FT_SOURCE_HOSTS` limits it to these hosts, separated by commas. No token
follows a redirect to another host. Other schemes, local paths and files of more than 64 GiB are refused. Plain http is
read from this machine only. Link-local addresses (169.254.169.254) are never asked. Private addresses may be named, but
a redirect never leads from a public to a private address, or to this machine.

## Sidecars

A YAML file with the same name (`support.yaml` for `support.csv` and `support.csv.gz`), called a sidecar, configures how
a file is read:

"""

FILTERS = {
    "teacher_failed": "no answer (above), or the prompt does not fit the context of a teacher on this machine",
    "empty_output": "only white space and zero-width characters",
    "special_tokens": "a control token of a chat template",
    "repetition": f"more than {answer_filters.MAX_REPETITION:.0%} of its "
    f"{answer_filters.REPETITION_WORDS}-word sequences are repeats",
    "answer_cut_off": "no end within `max_new_tokens`",
    "refusal_boilerplate": "a stock phrase of a model that declines (*as an AI language model I*, *I don't have "
    "access*), but not a policy that says no",
    "unresolved_placeholder": "a placeholder: `{{name}}`, `[Your Name]`, `<your name>`",
    "output_equals_input": f"more than {answer_filters.MAX_COPY:.0%} of its {answer_filters.COPY_WORDS}-word "
    f"sequences are from one turn of the prompt, or more than {answer_filters.MAX_EXAMPLE_COPY:.0%} from the system "
    "prompt or an example; or a number of four or more digits that only an example contains",
    "answer_length": f"shorter than {answer_filters.LENGTH_SLACK[0]:g} × the "
    f"{answer_filters.LENGTH_PERCENTILES[0]:g}st percentile of the human answers in the train split, in characters, "
    f"or longer than {answer_filters.LENGTH_SLACK[1]:g} × the "
    f"{answer_filters.LENGTH_PERCENTILES[1]:g}th; not checked with fewer than "
    f"{answer_filters.MIN_HUMAN_ANSWERS} human answers, or if the prompt has a reference",
    "reference_mismatch": "does not contain the words of the reference of its prompt, one after the other",
}
"""By code, in the order of answer_filters.CHECKS."""

FAILURES = "| failure | reason | retried | paid | reason code of the row |\n|---|---|---|---|---|\n"


def main() -> None:
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The generated files, by path from docs/."""
    intro = "# Settings\n\nGenerated by `make docs` from ft_pipeline/settings/. An unknown key is an error.\n\n"
    project = "## project.yaml\n\n" + describe(ProjectSettings)
    experiment = "## experiments/NAME.yaml\n\n" + describe(ExperimentSettings)
    codes = "\n## Reason codes of rows\n\n" + _table(ROW_CODES) + "\n## Reason codes of files\n\n" + _table(FILE_CODES)
    formats = "".join(f"| {name} | `data/raw/{name}` | {entry.raw_row} |\n" for name, entry in FORMATS.items())
    distillation = (HERE / "distillation.md").read_text(encoding="utf-8")
    distillation = _between(distillation, "failures", FAILURES + "".join(map(_failure, RULES, RULES.values())))
    distillation = _between(distillation, "filters", "| code | threshold |\n|---|---|\n" + "".join(_rows(FILTERS)))
    return {
        "settings.md": intro + project + "\n" + experiment,
        "formats.md": FORMATS_PAGE.replace("<!-- formats -->\n", formats) + describe(Sidecar) + codes,
        "distillation.md": distillation,
        "commands.md": commands_page(),
        "../schemas/project.json": _schema(ProjectSettings),
        "../schemas/experiment.json": _schema(ExperimentSettings),
    }


def _between(page: str, name: str, text: str) -> str:
    """The page with the text between the two markers of `name` replaced by `text`."""
    before, begin, rest = page.partition(f"<!-- {name}: written by make docs -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->\n")
    return before + begin + text + end + after


def _failure(reason: str, rule: Rule) -> str:
    again = "stops the run" if rule.stop else "yes" if rule.retry else "no, settled" if rule.settled else "no"
    return f"| {rule.meaning} | `{reason}` | {again} | {rule.bill} | `{rule.code}` |\n"


def _schema(model: type[BaseModel]) -> str:
    """The JSON schema for an editor's YAML language server, which completes keys and marks unknown ones."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def describe(model: type[BaseModel], prefix: str = "") -> str:
    """A table of the model's own keys, then one table for each section."""
    comments = _comments(model)
    own, sections = [], []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            sections.append(
                f"\n### {prefix}{name}\n\n{inspect.getdoc(section)}\n\n{describe(section, f'{prefix}{name}.')}"
            )
        if section is None or section is not field.annotation:
            own.append(
                f"| `{prefix}{field.alias or name}` | {_default(field)} | {_kind(field)} | {comments.get(name, '')} |"
            )
        if section is None and (each := _section(field)) is not None:
            sections.append(f"\n### each of {prefix}{name}\n\n{describe(each)}")
        for each in _choices(field.annotation):
            kind = each.model_fields.get("type")
            title = f"with `type: {get_args(kind.annotation)[0]}`" if kind else "without `type`"
            sections.append(f"\n### each of {prefix}{name}, {title}\n\n{inspect.getdoc(each)}\n\n{describe(each)}")
    head = "| key | default | type | |\n|---|---|---|---|\n" if own else ""
    return head + "".join(f"{line}\n" for line in own) + "".join(sections)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    arguments = get_args(field.annotation)
    candidates = [field.annotation, *arguments, *itertools.chain.from_iterable(map(get_args, arguments))]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _choices(annotation: Any) -> list[type[BaseModel]]:
    """The sections of which each value of a mapping is one, told apart by their key `type`."""
    values = [part for part in get_args(annotation) if get_origin(part) is Annotated]
    return [get_args(choice)[0] for value in values for choice in get_args(get_args(value)[0])]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    shown = "null" if value is None else str(sorted(value)) if isinstance(value, frozenset) else str(value)
    return f"`{shown}`" if shown else "empty"


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if choices := _choices(annotation):
        return f"dict[str, {' or '.join(choice.__name__ for choice in choices)}]"
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    text = re.sub(r"ft_pipeline\.(settings\.\w+|\w+\.settings)\.", "", text)
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
    """The string under each attribute in the source, of the model and of the keys that features add to it."""
    found = {}
    for base in model.__bases__:
        found |= _comments(base) if issubclass(base, FeatureKeys) and base is not FeatureKeys else {}
    body = ast.parse(inspect.getsource(model)).body[0].body  # type: ignore[attr-defined]
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
