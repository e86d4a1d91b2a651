"""All conversations of the tables in one form, without duplicates, each in the train, validation or test split.

**Look here** to read what is trained and what is tested, and to see the longest and the oddest rows. A row's split
never changes.

**If a check is red:** a split is empty, or a prompt is in two of them. Add rows, or change `data.test_share`
(docs/splits.md).
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ft_pipeline import plotting, small_plots
from ft_pipeline.evaluation.scoring.task_files import read_task_texts
from ft_pipeline.models.base_model import identify_model
from ft_pipeline.models.embeddings import open_embedder
from ft_pipeline.page import Columns, Lineage, Page, Picture, Table, beginning_with
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, StepConfig, references, step_of
from ft_pipeline.steps.base_model import ModelIdentity
from ft_pipeline.steps.shared.column_lineage import conversations_lineage
from ft_pipeline.steps.shared.table_pages import MATCHES_SCHEMA, example_rows, language_table, warning_table
from ft_pipeline.steps.shared.task_inputs import task_files, task_inputs
from ft_pipeline.steps.tables import SplitSettings, present
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.accounts import RowWarning
from ft_pipeline.tables.conversations import build_conversations, count_words
from ft_pipeline.tables.finished_tables import CONVERSATIONS
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.inspection import LISTED_ROW_COLUMNS, inspect_rows
from ft_pipeline.tables.moved_rows import count_moves, moves_warning
from ft_pipeline.tables.semantic import SemanticSearch

ROWS_TO_LOOK_AT = 5
"""Rows of each list of `ft inspect` that a page shows."""


class SemanticModel(ModelIdentity):
    """What finds rows of the same meaning."""

    similarity: float


class Config(StepConfig):
    """How rows are split, and texts that are not trained on."""

    data: SplitSettings
    general_questions: list[tuple[str, str]]
    """(question, answer)"""
    general_texts: list[str]
    tasks: list[str]
    """Tasks of lm-eval whose documents are held out."""
    semantic_duplicates: SemanticModel | None = later(None)


def spec(context: SpecContext) -> Spec:
    """Return the spec of all conversations."""
    settings = context.project.settings
    evaluation = settings.evaluation
    questions, texts = (
        read_jsonl(context.project.resolve_path(path))
        for path in (evaluation.general_questions, evaluation.general_texts)
    )
    inputs = {name: context.checked_artifact(name) for name in present(context, CONVERSATIONAL)}
    config = Config(
        data=settings.data,
        general_questions=[(str(row.get("query", "")), _gold_answer(row)) for row in questions],
        general_texts=[str(row.get("text", "")) for row in texts],
        tasks=sorted(evaluation.task_names),
        semantic_duplicates=_semantic_model(context),
    )
    tasks = task_inputs(context, task_files(context))
    return Spec("conversations", references(inputs) | tasks, config.model_dump(mode="json"))


def _semantic_model(context: SpecContext) -> SemanticModel | None:
    settings = context.project.settings.data.semantic_duplicates
    if settings is None:
        return None
    model = identify_model(settings.model, settings.revision, context.store.file_hashes)
    return SemanticModel(**model, similarity=settings.similarity)


def _gold_answer(question: Mapping[str, Any]) -> str:
    """Return the right choice of a question of the general suite."""
    with contextlib.suppress(LookupError, TypeError):
        return str(question["choices"][question["gold"]])
    return ""


def build(build: BuildContext) -> dict[str, Any]:
    """Put the rows of all tables into one form, and each in a split."""
    config, tasks = Config.of(build.spec), build.inputs.get("tasks")
    task_texts, unread_tasks = read_task_texts(tasks, config.tasks) if tasks else ([], config.tasks)
    with _semantic_search(build, config.semantic_duplicates) as semantic:
        report = build_conversations(
            {name: build.inputs[name] for name in CONVERSATIONAL if name in build.inputs},
            build.out,
            settings=config.data,
            suite=SuiteTexts.of(config.general_questions, task_texts, config.general_texts),
            semantic=semantic,
        )
    moved = _moved_rows(build)
    for warning in moved:
        build.note(warning.message)
    report.warnings += moved
    if unread_tasks:
        message = (
            f"the documents of {', '.join(unread_tasks)} are not in evaluation.include_path, so that no row was "
            "compared with them"
        )
        report.warnings.append(RowWarning("tasks_not_compared", message))
    return report.to_json()


@contextlib.contextmanager
def _semantic_search(build: BuildContext, settings: SemanticModel | None) -> Iterator[SemanticSearch | None]:
    """Yield the search for rows of the same meaning, if the project asks for it."""
    if settings is None:
        yield None
        return
    with open_embedder(settings.model, settings.revision) as (embed, source):
        build.note(f"comparing the meaning of rows with {source}: every row is embedded, which takes a while")
        yield SemanticSearch(embed, settings.similarity)


def _moved_rows(build: BuildContext) -> list[RowWarning]:
    """Return a warning if rows moved since the present conversations of the store, which these replace."""
    before = current_artifact(build.store, "conversations")
    if before is None:
        return []
    moves = count_moves(before.path, build.out)
    return [moves_warning(moves, before.spec, build.spec.to_json())] if moves else []


def page(artifact: Artifact) -> Page:
    """Return the page of the conversations: example rows, splits, warnings, and rows to look at."""
    summary = artifact.summary
    edges, counts = plotting.histogram(count_words(artifact.path))
    return {
        "preview": example_rows(summary["preview"], CONVERSATIONS),
        "splits": _split_table(summary["tables"]),
        "warnings": warning_table(summary["warnings"]),
        **_rows_to_look_at(artifact),
        "words": Picture(small_plots.bars(edges, counts, "words", "words per conversation")),
        "set_aside": summary["set_aside"] or None,
        **language_table(summary),
        "dagster/row_count": summary["accepted"],
        "dagster/column_lineage": Lineage(conversations_lineage()),
        "dagster/column_schema": Columns(CONVERSATIONS),
    }


def _split_table(tables: Mapping[str, Mapping[str, int]]) -> Table:
    """The number of conversations by table and split."""
    names = ("train", "validation", "test")
    return Table(
        [{"table": name, **{split: counts.get(split, 0) for split in names}} for name, counts in tables.items()]
    )


def _rows_to_look_at(artifact: Artifact) -> dict[str, Any]:
    """The longest and the oddest rows. In a large table, the oddest are searched in a sample."""
    found = inspect_rows(artifact.path / "rows.parquet", "conversations", ROWS_TO_LOOK_AT, all_rows=False)
    columns = {
        "list": f"oddest: of {found.searched:,} rows (ft inspect searches all rows). longest: of all rows.",
        **LISTED_ROW_COLUMNS,
    }
    columns = beginning_with(columns, "prompt", "why")
    lists = {"oddest": found.oddest, "longest": found.longest}
    rows = [{"list": name, **listed.to_json()} for name, listed_rows in lists.items() for listed in listed_rows]
    return {"rows_to_look_at": Table([{column: row[column] for column in columns} for row in rows], columns)}


CHECKS = (
    CheckSpec("rows_accounted_for", "read = accepted + set aside."),
    CheckSpec("no_prompt_straddles", "No prompt is in two splits."),
    CheckSpec("every_split_has_rows", "Train, validation and test each have rows."),
    MATCHES_SCHEMA,
)

STEP = step_of(
    __name__,
    stage="tables",
    deps=CONVERSATIONAL,
    kinds=frozenset({"duckdb", "pandera", "parquet"}),
    code_version="7",
)
