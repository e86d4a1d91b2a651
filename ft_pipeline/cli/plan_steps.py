"""The steps that an experiment would run, and the work of each, for `ft plan`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.prompt_search.questions import TRAIN_PART
from ft_pipeline.evaluation.prompt_search.search import MOST_ROWS
from ft_pipeline.evaluation.scoring.answer_limit import limit_of
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import with_learning_rate
from ft_pipeline.step import STEPS, MissingInput, SpecContext, planned_spec
from ft_pipeline.steps.adapter import starting_model
from ft_pipeline.steps.base_model import base_model_spec
from ft_pipeline.steps.shared.phases import Phase
from ft_pipeline.steps.shared.teacher_distributions import teacher_model
from ft_pipeline.steps.training_data import training_data_spec
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.training.step_history import mean_prompt_tokens
from ft_pipeline.training.work import (
    MERGE_MODELS,
    Work,
    merge_work,
    scoring_work,
    teacher_work,
    tokens_per_row,
    trained_tokens_per_row,
    training_work,
)

PREPARED = ("training_data",)
"""The assets in which rows are counted."""
PREPARED_FOR_A_TEACHER = ("base_model", "conversations", "unlabelled")
"""Those of `distill`, whose training data needs the teacher's answers first."""


@dataclass(frozen=True)
class PlannedPart:
    """A step of an experiment."""

    name: str
    kind: str
    """Of its artifact."""
    settings: ExperimentSettings
    work: Work | None
    """None if its rows are not known yet."""
    counts: bool = True
    """Whether it is part of the sum: not if it is shared with other experiments, and the store has it."""


@dataclass(frozen=True)
class Counted:
    """What an experiment trains on."""

    settings: ExperimentSettings
    config: dict[str, Any]
    """Of its base model."""
    params: int
    audit: dict[str, Any]
    """`tokens`, `trained_tokens`, `rows` and `lengths` as in the token audit."""
    is_assumed: bool
    """Whether there are no tokens yet, because a teacher has to write them first."""
    teacher: dict[str, Any] | None = None
    """The config of the model that reads the student's answers, if it is another one and in the store."""


def count_rows(context: SpecContext) -> Counted:
    """Return what the experiment of a context trains on. UserError if its rows are not there yet."""
    name = context.experiment
    assert name is not None
    settings = context.project.experiment(name)
    base, data = context.find("base_model"), context.find("training_data")
    is_there = all(context.find(asset) for asset in assets_to_count(settings))
    if base is None or not (data or is_there):
        raise UserError(
            f"The training data of {name} is not there yet, so its tokens are not counted. "
            f"Prepare it first, without training: ft plan {name} --prepare"
        )
    params = base.summary["params"]
    audit = data.summary["audit"] if data else _assumed_audit(context, settings)
    settings = with_learning_rate(settings, params)
    teacher = _teacher_config(context, settings) if settings.is_on_policy else None
    return Counted(settings, base.document("config.json"), params, audit, data is None, teacher)


def assets_to_count(settings: ExperimentSettings) -> tuple[str, ...]:
    """Return the assets that must be there before an experiment can be planned."""
    return PREPARED_FOR_A_TEACHER if settings.objective == "distill" else PREPARED


def _assumed_audit(context: SpecContext, settings: ExperimentSettings) -> dict[str, Any]:
    """Return the token audit of answers that a teacher has not written yet: all of them, with the longest length."""
    prompts, prompt_tokens = _prompts(context, settings)
    assert settings.distill is not None
    rows = prompts * settings.distill.answers_per_prompt
    held_out = round(rows * context.project.settings.data.validation_share)
    answer = settings.distill.max_new_tokens
    return {
        "tokens": round(rows * (prompt_tokens + answer)),
        "trained_tokens": rows * answer,
        "rows": {"teacher/train": rows - held_out, "teacher/validation": held_out},
        "lengths": {"max": None},
    }


def _prompts(context: SpecContext, settings: ExperimentSettings) -> tuple[int, float]:
    """Return the number of prompts of a teacher of `distill`, and their mean length in tokens."""
    assert settings.distill is not None
    count, tokens = 0, 0.0
    for table in settings.distill.rows:
        artifact = context.artifact(table)
        splits = artifact.summary.get("splits")
        rows = splits["train"] + splits["validation"] if splits else artifact.summary["accepted"]
        count, tokens = count + rows, tokens + rows * mean_prompt_tokens(artifact, "messages")
    return count, tokens / max(1, count)


def parts_of(context: SpecContext, counted: Counted) -> list[PlannedPart]:
    """Return the steps that the experiment of a context would run, in their order."""
    settings, config, audit = counted.settings, counted.config, counted.audit
    parts = [*_earlier_phases(context, counted)]
    if settings.objective == "distill":
        parts.append(
            PlannedPart("teacher", "teacher_distributions", settings, _work_of_teacher(context, settings, config))
        )
    parts.append(
        PlannedPart("training", "adapter", settings, training_work(settings, config, audit, teacher=counted.teacher))
    )
    if settings.technique in MERGE_MODELS:
        parts.append(PlannedPart("merge", "merged_model", settings, merge_work(settings, config, audit)))
    return [*parts, *_scorings(context, counted)]


def _earlier_phases(context: SpecContext, counted: Counted) -> Iterator[PlannedPart]:
    """Yield the trainings and merges of `start_from`. They count unless the store has them."""
    assert context.experiment is not None
    chain = [Phase(name, settings) for name, settings in context.project.training_chain(context.experiment)]
    for number, phase in enumerate(chain[:-1], 1):
        settings = with_learning_rate(phase.settings, counted.params)
        data = _find(context, lambda settings=settings: training_data_spec(context, settings))
        audit = data.summary["audit"] if data else None
        is_new = not _is_built(context, chain[: number + 1])
        works = (training_work, merge_work) if settings.technique in MERGE_MODELS else (training_work,)
        for name, kind, work_of in zip(("training", "merge"), ("adapter", "merged_model"), works, strict=False):
            work = work_of(settings, counted.config, audit) if audit else None
            yield PlannedPart(f"{name} of {phase.name}", kind, settings, work, is_new)


def _is_built(context: SpecContext, chain: list[Phase]) -> bool:
    """Whether the store has what the last phase starts from."""
    try:
        starting_model(context, chain)
    except (MissingInput, UserError):
        return False
    return True


def _find(context: SpecContext, spec: Any) -> Artifact | None:
    """Return the artifact of a spec that a function gives; None if it cannot be given yet."""
    try:
        return context.find_built(spec())
    except (MissingInput, UserError):
        return None


def _work_of_teacher(context: SpecContext, settings: ExperimentSettings, config: dict[str, Any]) -> Work | None:
    """Return the work of a teacher of `distill`; None if its model is not in the store yet."""
    assert settings.distill is not None
    if teacher_model(settings) is not None:
        teacher = _teacher_config(context, settings)
        if teacher is None:
            return None
        config = teacher
    return teacher_work(settings.distill, config, *_prompts(context, settings))


def _teacher_config(context: SpecContext, settings: ExperimentSettings) -> dict[str, Any] | None:
    """Return the config of a teacher that is another model; None if it is not, or if the store does not have it yet."""
    model = teacher_model(settings)
    teacher = _find(context, lambda: base_model_spec(context, *model)) if model else None
    return teacher.document("config.json") if teacher else None


def _scorings(context: SpecContext, counted: Counted) -> Iterator[PlannedPart]:
    """Yield the search of a prompt, the scoring of the base model under each prompt, and that of the tuned model."""
    project, settings = context.project.settings, counted.settings
    conversations = context.find("conversations")
    splits = conversations.summary["splits"] if conversations else dict.fromkeys(("train", "validation", "test"), 0)
    rows = splits["test"]
    evaluation = project.evaluation
    rows = min(rows, evaluation.max_test_rows or rows)
    length = tokens_per_row(counted.audit)
    longest = evaluation.max_new_tokens or limit_of([trained_tokens_per_row(counted.audit)])

    def work(models: int, rows: int = rows) -> Work:
        return scoring_work(counted.config, models, rows, length, longest, evaluation.batch_size)

    search = project.prompting.search
    tries = work(search.tries, min(splits["validation"], MOST_ROWS)) if search else None
    if search and "base" in search.models:
        of_train = splits["train"] // TRAIN_PART if splits["validation"] else 0
        asked = work(search.tries, min(splits["validation"] + of_train, MOST_ROWS))
        searched = _find(context, lambda: planned_spec(STEPS["searched_prompt"], context)) is not None
        yield PlannedPart("prompt search", "searched_prompt", settings, asked, not searched)
    if search and "tuned" in search.models:
        yield PlannedPart("prompt search for the tuned model", "searched_prompt", settings, tries)
    prompts = 1 + len(project.scored_prompts())
    scored = _find(context, lambda: planned_spec(STEPS["prompt_baseline"], context)) is not None
    yield PlannedPart("prompt baseline", "prompt_baseline", settings, work(prompts), not scored)
    forms = 2 if settings.technique in MERGE_MODELS else 1
    yield PlannedPart("scoring", "scores", settings, work(forms * (1 + len(project.prompting.tuned_with))))
