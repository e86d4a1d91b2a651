"""The best prompt for the base model of those that were tried on the validation rows. Empty without `prompting.search`.

**Look here** for what a prompt alone gains, before anything is trained. `prompt_baseline` scores it on the test rows.

**If it fails:** memory ran out. Run it again: finished tries are kept.
"""

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ft_pipeline.errors import require_extra
from ft_pipeline.evaluation.comparison.deciding_metric import AUTO
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.evaluation.prompt_search.looks import write_look
from ft_pipeline.evaluation.prompt_search.reflector import plan_of
from ft_pipeline.evaluation.prompt_search.search import Found, Write, search
from ft_pipeline.evaluation.prompt_search.space import PLAIN, SHORTLIST, Space, Variant
from ft_pipeline.evaluation.prompt_search.tries import TRIES_FILE, Try, best_of, describe, read_tries
from ft_pipeline.job import Job
from ft_pipeline.page import Page, Picture, Table, Words
from ft_pipeline.settings.checks import ArgumentRule
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline.settings.prompt_variant import SEARCHED, PromptSearchSettings, PromptVariant
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.small_plots import tries_plot
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, has_result, only, spec_of, step_of
from ft_pipeline.steps.shared.phases import experiment_settings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.atomic_files import write_atomically
from ft_pipeline.store.spec import Spec

if TYPE_CHECKING:
    from ft_pipeline.evaluation.prompt_search.measure import PromptScorer

LIBRARIES = ("torch", "transformers", "optuna", "bm25s", "sacrebleu", "rouge-score")
INSTRUCTIONS = "instructions.json"
"""What a reflector was asked, and what became of its replies. Absent without one."""
ID_DIGITS = 12
"""Number of digits of a row's id that people see."""
SHOWN = 10
"""Number of tries that the page shows, the best first."""
NO_VALIDATION_ROWS = (
    "There are no validation rows, on which prompts are compared, so none was searched. Raise data.validation_share."
)
NOT_ASKED = "Add `search: {}` to `prompting` in project.yaml, and a prompt is searched (docs/prompt-search.md)."


class Config(StepConfig):
    """What the search may try, and what decides."""

    search: PromptSearchSettings | None
    reflector: dict[str, Any] = later(default_factory=dict)
    """The model that writes instructions: TeacherSettings, of the endpoint what a reply depends on. Empty: none."""
    asks_train_rows: bool = later(False)
    """Whether train rows are questions, too, where validation rows are few: the model did not learn from them."""
    own: dict[str, Any] = later(default_factory=dict)
    """Of a tuned model: `system_prompt` and `reasoning` of its training. Empty for a base model."""
    task: str = ""
    given: dict[str, PromptVariant] = Field(default_factory=dict)
    """The project's prompts. Those with passages are left out."""
    metric: str = AUTO
    evaluation: Annotated[EvaluationSettings, only("seed", "batch_size", "max_new_tokens", "answer_format")] = (
        EvaluationSettings()
    )
    custom_metrics: dict[str, Any] = Field(default_factory=dict)
    call_arguments: dict[str, ArgumentRule] = Field(default_factory=dict)


def spec(context: SpecContext) -> Spec:
    """Return the spec of the search for this experiment's base model. It is the same for all that share the model."""
    experiment_settings(context)
    search = context.project.settings.prompting.search
    if search is None or "base" not in search.models:
        return spec_of("searched_prompt", {}, Config(search=None), libraries=())
    return _spec(context, context.artifact("base_model"), search, {})


def tuned_spec(context: SpecContext) -> Spec | None:
    """Return the spec of the search for this experiment's merged model; None if none is asked for.

    It belongs to no asset: `scores` builds it before it scores the model. Members of a sweep are never released.
    """
    settings, search = experiment_settings(context), context.project.settings.prompting.search
    if search is None or "tuned" not in search.models or is_sweep_member(context.experiment or ""):
        return None
    if settings.technique == "prompt_tuning":  # it has no merged model
        return None
    own = {"system_prompt": settings.data.system_prompt, "reasoning": settings.data.reasoning}
    return _spec(context, context.checked_artifact("merged_model"), search, own)


def _spec(context: SpecContext, model: Artifact, search: PromptSearchSettings, own: dict[str, Any]) -> Spec:
    settings, reflector = context.project.settings, context.project.settings.reflector()
    if reflector:
        require_extra("reflector", "prompting.search.reflector needs", "gepa")
    config, handling = reflector.config_and_handling() if reflector else ({}, {})
    found = spec_of(
        "searched_prompt",
        {"conversations": context.checked_artifact("conversations"), "base_model": model},
        Config(
            search=search.model_copy(update={"models": ["base"]}),  # the search of one model does not depend on others
            reflector=config,
            asks_train_rows=not own,
            own=own,
            task=" ".join(settings.task.split()),
            given={name: each for name, each in settings.scored_prompts().items() if not each.passages},
            metric=settings.promotion.wanted_metric,
            evaluation=settings.evaluation,
            custom_metrics=resolve_metrics(context.project.root, settings.evaluation.metrics),
            call_arguments=settings.evaluation.call_arguments,
        ),
        libraries=(*LIBRARIES, *(["gepa"] if reflector else [])),
    )
    return replace(found, handling={**handling, "plan": _announced(context)}) if reflector else found


def run(job: Job) -> dict[str, Any]:
    """Try prompts on the validation rows, and keep the best.

    Summary: row (the name under which the prompt is scored), variant, tries, ended (why there are not more of them),
    metric, score, of_plain, of_given (the best score of a prompt that was there before), rows; with a reflector, what
    it was asked for (`instructions`).
    """
    from ft_pipeline.evaluation.items import groups_of, read_rows
    from ft_pipeline.evaluation.prompt_search.measure import PromptScorer
    from ft_pipeline.evaluation.prompt_search.questions import choose_questions
    from ft_pipeline.evaluation.scoring.prompt_sources import possible_variants
    from ft_pipeline.models.chat import pick_rows, single_turn_rows

    config, rows = Config.of(job), read_rows(job.inputs["conversations"])
    assert config.search is not None
    if all(row["split"] != "validation" for row in rows):
        job.report.log(NO_VALIDATION_ROWS)
        (job.out / TRIES_FILE).touch()
        return {"tries": 0, "ended": NO_VALIDATION_ROWS}
    wanted, seed = config.search.tries, config.evaluation.seed
    shortlist = [row["id"] for row in single_turn_rows(rows, 0, seed)[:SHORTLIST]]
    fixed = [each.few_shot for each in config.given.values() if each.examples == "fixed"]
    named = [name for each in config.given.values() for name in each.example_rows]
    shown = {*shortlist, *named, *(row["id"] for row in pick_rows(rows, max(fixed, default=0), seed))}
    groups = groups_of(job.inputs["conversations"]) if config.asks_train_rows else {}
    questions = choose_questions(rows, groups, shown, asks_train_rows=config.asks_train_rows)
    scorer = PromptScorer(job, rows, questions)
    given = possible_variants(job, {name: each.model_dump(mode="json") for name, each in config.given.items()}, rows)
    space = Space(given, config.task, shortlist, config.search.most_examples)

    def report(tried: Try, best: Try) -> None:
        job.report.progress(tried.number, wanted, score=best.measured.score)

    write = written_once(job, config, scorer) if config.reflector else None
    found = search(space, scorer.measure, job.work / TRIES_FILE, tries=wanted, seed=seed, report=report, write=write)
    shutil.copyfile(job.work / TRIES_FILE, job.out / TRIES_FILE)
    summary = summarize(found, given, scorer.definition.label, len(scorer.items))
    summary |= {"train_rows": questions.train_rows} if questions.train_rows else {}
    if not (job.work / INSTRUCTIONS).is_file():
        return summary
    shutil.copyfile(job.work / INSTRUCTIONS, job.out / INSTRUCTIONS)
    return {**summary, "instructions": json.loads((job.out / INSTRUCTIONS).read_text(encoding="utf-8"))["asked"]}


def written_once(job: Job, config: Config, scorer: "PromptScorer") -> Write:
    """Return what asks the reflector for instructions, unless a run before this one was finished with it."""
    from ft_pipeline.evaluation.prompt_search.instructions import World, write_instructions
    from ft_pipeline.evaluation.prompt_search.reflector import reflector_of
    from ft_pipeline.evaluation.prompt_search.refusals import HeldOutTexts

    assert config.search is not None
    search, seed = config.search, config.evaluation.seed
    endpoint = job.handling.get("endpoint", {}) | config.reflector["endpoint"]
    model = TeacherSettings.model_validate({**config.reflector, "endpoint": endpoint})

    def write(start: Variant, attempt: Callable[[Variant], Try], has_tries_left: Callable[[], bool]) -> None:
        if (job.work / INSTRUCTIONS).is_file():
            return

        def validation_scores(prompt: Variant) -> Sequence[float]:
            attempt(prompt)
            return scorer.scores(prompt)

        with reflector_of(job, model, config.task) as reflector:
            world = World(
                len(scorer.train_items),
                len(scorer.items),
                scorer.answer,
                validation_scores,
                reflector.reflect,
                HeldOutTexts(scorer.rows),
                has_tries_left,
            )
            replies = write_instructions(start, world, replies=search.reflections, seed=seed)
            document = {"asked": reflector.spent(), "replies": [vars(reply) for reply in replies]}
        write_atomically(job.work / INSTRUCTIONS, json.dumps(document, ensure_ascii=False).encode())

    return write


def summarize(found: Found, given: Collection[str], metric: str, rows: int) -> dict[str, Any]:
    """Return the summary of a search. given: names of the project's prompts. metric: its label. rows: of validation."""
    best, of_project = found.best, [each for each in found.tries if each.name in given]
    return {
        "row": best.name if best.name in {PLAIN, *given} else SEARCHED,
        "variant": best.variant,
        "tries": len(found.tries),
        "ended": found.ended,
        "metric": metric,
        "score": best.measured.score,
        "of_plain": found.tries[0].measured.score,
        "of_given": best_of(of_project).measured.score if of_project else None,
        "rows": rows,
    }


def build(build: BuildContext) -> dict[str, Any]:
    """Write that no search was asked for."""
    (build.out / TRIES_FILE).write_text("[]\n", encoding="utf-8")
    return {"tries": 0}


def page(artifact: Artifact) -> Page:
    """What was tried, and what it brought."""
    return (
        found_by(artifact) if artifact.summary["tries"] else {"search": Words(artifact.summary.get("ended", NOT_ASKED))}
    )


def found_by(artifact: Artifact) -> Page:
    """What a search tried, and what it brought. Also for the search of a tuned model, which has no asset."""
    summary = artifact.summary
    tries = read_tries(artifact.path / TRIES_FILE)
    ranked = sorted(tries, key=lambda each: each.order)
    return {
        "search": Words(describe(summary)),
        "curve": Picture(tries_plot([each.measured.score for each in tries], summary["metric"])),
        "prompt": Words(written(summary["variant"])),
        "best_tries": Table([_row(each) for each in ranked[:SHOWN]]),
        **_instructions(artifact),
    }


def _instructions(artifact: Artifact) -> Page:
    """What a reflector wrote, and what became of it; empty without one."""
    if "instructions" not in artifact.summary:
        return {}
    replies = artifact.document(INSTRUCTIONS)["replies"]
    rows = [
        {"reply": number, "became": reply["fate"], "text": reply["text"]} for number, reply in enumerate(replies, 1)
    ]
    return {"reflector": Words(describe_reflector(artifact.summary["instructions"])), "instructions": Table(rows)}


def describe_reflector(asked: dict[str, Any]) -> str:
    """Return what a reflector was asked, and what that cost."""
    price = f" for {asked['cost']:.2f}" if asked["cost"] else ""
    stopped = f" Then it was not asked any more: {asked['stopped']}." if asked["stopped"] else ""
    return (
        f"The reflector {asked['model']} at {asked['host']} gave {asked['calls']} replies{price}, with "
        f"{asked['prompt_tokens']:,} tokens of prompts and {asked['answer_tokens']:,} of replies.{stopped}"
    )


def _row(tried: Try) -> dict[str, Any]:
    variant, measured = tried.variant, tried.measured
    return {
        "try": tried.number,
        "score": round(measured.score, 3),
        "examples": f"{variant['few_shot']} {variant['examples']}" if variant["few_shot"] else "none",
        "system prompt": variant["system_prompt"] or "",
        "nats per byte": round(measured.nats, 3),
        "prompt tokens": round(measured.prompt_tokens),
        "name": tried.name or "",
    }


def written(variant: dict[str, Any]) -> str:
    """Return a prompt in words."""
    said = f"System prompt: {variant['system_prompt']}" if variant["system_prompt"] else "No system prompt"
    if not variant["few_shot"]:
        return f"{said}, no examples."
    rows = ", ".join(row[:ID_DIGITS] for row in variant.get("example_rows", ()))
    shown = f"the rows {rows}" if rows else f"{variant['few_shot']} examples ({variant['examples']})"
    return f"{said}; then {shown}."


def _announced(context: SpecContext) -> str:
    """Return what a search sends to a server; empty if it asks none."""
    prompting, reflector = context.project.settings.prompting, context.project.settings.reflector()
    return plan_of(reflector, prompting.search.reflections) if reflector and prompting.search else ""


CHECKS = ()

STEP = step_of(
    __name__,
    stage="evaluation",
    deps=("experiment", "base_model", "conversations"),
    per_experiment=True,
    kinds=frozenset({"pytorch", "huggingface"}),
    gpu=lambda project: project.settings.prompting.search is not None,
    build=build,
    builds_here=lambda spec: not spec.inputs,
    look=lambda context, artifact: write_look(context.store.root, artifact),
    announce=lambda context: _announced(context),
    used=lambda project: project.settings.prompting.search is not None or has_result(project, "searched_prompt"),
)
