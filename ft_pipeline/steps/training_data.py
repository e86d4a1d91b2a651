"""The rows that this experiment trains on, as tokens, and which of them are trained.

**Look here** to read an example as the model reads it: what is between ⟦ and ⟧ is trained, the rest is only read.

**If a check is red:** no training starts. The check names rows and the cause: a row that is longer than
`max_length`, or a chat template that drops turns (docs/training-rows.md).
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer

from ft_pipeline import small_plots
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.page import Columns, Lineage, Page, Picture, Table
from ft_pipeline.project import Project
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.step import CheckSpec, SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.steps.base_model import base_model_spec
from ft_pipeline.steps.shared.phases import experiment_settings
from ft_pipeline.steps.shared.table_pages import MATCHES_SCHEMA
from ft_pipeline.steps.shared.teacher_distributions import asks_a_teacher, teacher_distributions_spec, teacher_model
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.relabels import changed_labels, read_relabels
from ft_pipeline.training.objectives.registry import OBJECTIVES, UNFILTERED_TABLES
from ft_pipeline.training.token_table import COLUMNS, token_table

OF_AN_EXPERIMENT: dict[str, Any] = {
    "objective": True,
    "data": True,
    "distill": True,
    "training": {"max_length", "long_rows", "seed"},
}
"""Settings of an experiment on which its rows depend, and how they are cut."""


def _of_the_rows(settings: ExperimentSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", include=OF_AN_EXPERIMENT)


class Config(StepConfig):
    """What the tokens depend on, besides the tables and the tokenizer."""

    experiment: Annotated[ExperimentSettings, PlainSerializer(_of_the_rows, return_type=dict)]
    data: Annotated[DataSettings | None, PlainSerializer(DataSettings.config, return_type=dict)] = later(None)
    """How rows are split that no table of conversations has split."""
    relabels: str | None = later(None)
    """The SHA-256 of the labels that people gave again."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's training data."""
    return training_data_spec(context, experiment_settings(context))


def training_data_spec(context: SpecContext, settings: ExperimentSettings) -> Spec:
    """Return the spec of one phase's training data.

    Besides `conversations`, its inputs are only the tables that its objective trains on. So a new preference pair never
    retrains an sft.
    """
    inputs = {"conversations": context.checked_artifact("conversations"), "base_model": context.artifact("base_model")}
    tables = OBJECTIVES[settings.objective].tables(settings)
    inputs |= {table: context.checked_artifact(table) for table in tables}
    if settings.objective == "distill":
        inputs["teacher_distributions"] = _teacher_distributions(context, settings, inputs["base_model"])
    splits_here = settings.objective == "distill" or any(table in UNFILTERED_TABLES for table in tables)
    labels = _new_labels(context.project.root) if settings.data.relabels else {}
    config = Config(
        experiment=settings,
        data=context.project.settings.data if splits_here else None,
        relabels=sha256_of_json(labels) if labels else None,
    )
    spec = spec_of("training_data", inputs, config, libraries=("transformers", "tokenizers"))
    return replace(spec, handling={**spec.handling, "relabels": labels}) if labels else spec


def _new_labels(root: Path) -> dict[str, str]:
    """Return id → label of the rows that people labeled again. UserError if there are none."""
    labels = changed_labels(read_relabels(root))
    if not labels:
        raise UserError("data.relabels is on, and no label was changed. Run `ft relabel`, or remove the key.")
    return labels


def _teacher_distributions(context: SpecContext, settings: ExperimentSettings, student: Artifact) -> Artifact:
    """Return the distributions of an experiment's teacher. MissingInput if they, or its model, are not built yet."""
    model = teacher_model(settings)
    teacher = student if model is None else context.built_artifact(base_model_spec(context, *model))
    return context.built_artifact(teacher_distributions_spec(context, settings, student, teacher))


def assets_not_read(project: Project, experiment: str) -> set[str]:
    """Return what no phase of an experiment trains on, so that no teacher is asked for it."""
    chain = project.training_chain(experiment)
    read = {table for _, settings in chain for table in OBJECTIVES[settings.objective].tables(settings)}
    return {"distilled"} - read


def run(job: Job) -> dict[str, Any]:
    """Write the tokens, their labels and the audit (training/training_data.py)."""
    from ft_pipeline.training import training_data

    return training_data.run(job)


def page(artifact: Artifact) -> Page:
    """An example with its trained tokens, and the lengths of the rows."""
    audit = artifact.summary["audit"]
    objective = artifact.spec["config"]["experiment"]["objective"]
    lineage = OBJECTIVES[objective].lineage_from(artifact.inputs)
    columns = [name for name in COLUMNS if name == "source" or name in lineage]
    return {
        "example": audit["example"]["marked"],
        "rows": audit["rows"],
        "histogram": Picture(small_plots.bars(**audit["histogram"], unit="tokens", alternative_text="tokens per row")),
        **_long_rows(audit),
        "tokens": audit["tokens"],
        "trained_tokens": audit["trained_tokens"],
        "trained_share": audit["trained_share"],
        "lengths": audit["lengths"],
        "split_by_turn": audit["split_by_turn"] or None,
        "reasoning": audit["reasoning"]["message"] or None,
        "dagster/column_lineage": Lineage(lineage),
        "dagster/column_schema": Columns(token_table(columns)),
    }


def _long_rows(audit: dict[str, Any]) -> Page:
    """Return the rows that are longer than max_length, if the experiment leaves them out or cuts them."""
    left_out = [row for row in audit.get("left_out", ()) if "tokens" in row]
    cut = audit.get("long_rows", {}).get("cut", [])
    if not left_out and not cut:
        return {}
    names = ("table", "file", "row", "tokens")
    rows = [
        {**{name: row[name] for name in names}, "left_out": "yes", "lost_tokens": row["tokens"]} for row in left_out
    ]
    rows += [
        {**{name: row[name] for name in names}, "left_out": "no", "lost_tokens": row["lost_tokens"]} for row in cut
    ]
    return {"long_rows": audit["long_rows"]["message"], "rows_too_long": Table(rows)}


CHECKS = (
    CheckSpec("no_over_length", "No row that trains is longer than max_length."),
    CheckSpec("every_turn_rendered", "The chat template renders every turn; dropped turns are reported."),
    CheckSpec("every_row_trains", "Every row has at least one trained token."),
    CheckSpec("stop_token_trained", "Every answer's stop token is trained, so that the model learns to stop."),
    CheckSpec("single_bos", "No row begins with two BOS tokens."),
    CheckSpec("padding_never_trained", "Labels are set by position, so padding that equals EOS is never trained."),
    CheckSpec("prompts_masked", "No token of a prompt is trained."),
    CheckSpec("calls_read_back", "Every trained call of a tool reads back equal from its tokens.", optional=True),
    CheckSpec("ids_in_vocabulary", "The model has an embedding for every token."),
    MATCHES_SCHEMA,
)

STEP = step_of(
    __name__,
    stage="training",
    deps=("experiment", "base_model", "conversations", "distilled", "preferences", "feedback", "text", "unlabelled"),
    per_experiment=True,
    kinds=frozenset({"huggingface", "parquet"}),
    may_use_gpu=asks_a_teacher,
    code_version="2",
)
