"""Verdicts of a judge on the pairs of answers of the scores that `comparison` compares (docs/judge.md)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ft_pipeline.distillation.endpoint_teacher import has_key, host_of
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.training_facts import phase_adapters
from ft_pipeline.evaluation.items import make_items, read_rows, select_rows
from ft_pipeline.features import feeding
from ft_pipeline.job import Job
from ft_pipeline.judge.asking import Judge
from ft_pipeline.judge.judged_pairs import pairs_to_judge
from ft_pipeline.judge.pairs import first_items
from ft_pipeline.judge.prompt import PROMPT_VERSION
from ft_pipeline.judge.settings import JudgeSettings, judge_of
from ft_pipeline.judge.verdicts import judge_settings, write_judgements
from ft_pipeline.page import Hidden, Page, Points, Table
from ft_pipeline.project import Project
from ft_pipeline.step import BuildContext, SpecContext, has_result, step_of, versions_of
from ft_pipeline.steps.shared.compared_scores import ComparedScores, compared_scores
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec

CHOOSES_PAIRS = (
    *("fingerprint", "primary_metric", "decides", "rails", "bases", "base_names", "champion", "first"),
    "learned_from",
)
"""The settings of a comparison that the choice of candidates and rivals depends on, besides `contaminated`."""
ENDPOINT_KEYS_IN_CONFIG = {"url", "prices", "limit_field", "send_seed", "extra_body"}
"""Settings of the endpoint that replies or costs depend on. The others control how requests are sent."""
ORDERS = RIVALS = 2
"""Each pair is asked about in two orders. A candidate has two rivals: the champion, and the best use of its base."""
NO_JUDGE: dict[str, Any] = {"model": None, "excluded": [], "problem": None, "pairs": []}
"""judge.json of a project without a judge."""


def _description() -> str:
    """Return what the UI shows before anything is sent."""
    about = (
        "What a model as judge says about the answers of candidates and of the rivals that they must beat. "
        "**Look here** to see how often each wins, and whether the judge is consistent when the order is swapped "
        "(docs/judge.md). "
    )
    try:
        settings = judge_of(Project.find().settings.evaluation)
    except UserError:
        settings = None  # every run reports that error
    if settings is None:
        return f"{about}Without `evaluation.judge`, it is empty, and nothing is sent."
    return (
        f"{about}It sends test rows and answers to {host_of(settings.endpoint)} ({settings.model}). `ft run --plan` "
        "names calls, tokens and costs."
    )


def used(project: Project) -> bool:
    """Return whether the settings name a judge, or one judged."""
    return judge_of(project.settings.evaluation) is not None or has_result(project, "judgements")


def spec(context: SpecContext) -> Spec:
    """Return the spec of the verdicts."""
    settings = judge_of(context.project.settings.evaluation)
    if settings is None:
        return Spec("judgements", config=NO_JUDGE)
    compared = compared_scores(context)
    if compared.newest is None:
        raise UserError("There are no scores to judge yet. Materialize prompt_baseline and scores, or run `ft run`.")
    spec = _spec(context, settings, compared)
    if context.find_built(spec) is not None:
        return spec
    if has_key(settings.endpoint):
        return replace(spec, handling={**spec.handling, "plan": _plan(context, spec)})
    not_asked = (
        f"the environment variable {settings.endpoint.api_key_env} is not set. Set it where you start `ft run`, and "
        "run again"
    )
    return replace(spec, config={**spec.config, "not_asked": not_asked})


def _spec(context: SpecContext, settings: JudgeSettings, compared: ComparedScores) -> Spec:
    assert compared.newest is not None
    project = context.project.settings
    config = {
        "judge": {
            **settings.model_dump(mode="json", exclude={"endpoint"}),
            "endpoint": settings.endpoint.model_dump(mode="json", include=ENDPOINT_KEYS_IN_CONFIG),
        },
        "prompt_version": PROMPT_VERSION,
        "task": project.task,
        "max_test_rows": project.evaluation.max_test_rows,
        "comparison": {key: compared.config[key] for key in (*CHOOSES_PAIRS, "contaminated") if key in compared.config},
        "excluded": _why_excluded(context, settings, compared),
        **_asked_again(context),
    }
    inputs = {**compared.inputs, "conversations": compared.newest.inputs["conversations"]}
    handling = {"endpoint": settings.endpoint.model_dump(mode="json", exclude={*ENDPOINT_KEYS_IN_CONFIG, "budget"})}
    return Spec("judgements", inputs, config, versions_of("numpy", "scipy"), handling=handling)


def builds_here(spec: Spec) -> bool:
    """Whether there is nothing to judge."""
    return not spec.inputs


def run(job: Job) -> dict[str, Any]:
    """Ask the judge about pairs of answers (decide/judged_pairs.py)."""
    from ft_pipeline.judge import judged_pairs

    return judged_pairs.run(job)


def _asked_again(context: SpecContext) -> dict[str, int]:
    """Return how often the judge is asked again because requests failed, so that a run does not take the incomplete
    verdicts from the store; empty for never."""
    last = context.find("judgements")
    if last is None:
        return {}
    times = last.spec["config"].get("asked_again", 0) + bool(last.summary.get("incomplete"))
    return {"asked_again": times} if times else {}


def _why_excluded(context: SpecContext, settings: JudgeSettings, compared: ComparedScores) -> list[str]:
    scores = [reference for name, reference in compared.inputs.items() if name.endswith("/scores")]
    contenders = context.project.settings.evaluation.contenders
    others = {
        "the teacher of rows in training": teachers_of(
            context.store, [context.store.require(*reference) for reference in scores]
        ),
        "the base model of a compared model": compared.config["base_names"].values(),
        "a compared model": [contender.model for contender in contenders if contender.model],
    }
    return reasons_to_exclude([settings.model, *settings.endpoint.reply_models], others)


def _plan(context: SpecContext, spec: Spec) -> str:
    """Return what asking the judge sends, where to, and about what it costs."""
    folders = {name: context.store.require(*reference).path for name, reference in spec.inputs.items()}
    config = spec.config
    judge = Judge(judge_settings(config, spec.handling), config["task"])
    pairs = pairs_to_judge(folders, config["comparison"], folders["conversations"], config["max_test_rows"])
    return judge.plan(first_items(pairs, judge.settings.rows))


def announce(context: SpecContext) -> str:
    """Return what a run may send before its candidates are known; empty if it sends nothing."""
    project = context.project.settings
    settings, conversations = judge_of(project.evaluation), context.find("conversations")
    if settings is None or not has_key(settings.endpoint):
        return ""
    candidates = len(context.project.experiment_names()) + len(project.scored_prompts())
    calls = ""
    if conversations is not None:
        rows = select_rows(read_rows(conversations.path, "test"), "test", project.evaluation.max_test_rows)
        items = len(make_items(rows)[: settings.rows])
        calls = f", at most {ORDERS * items * candidates * RIVALS:,} calls"
    return (
        f"judge {settings.model}: test rows and answers go to {host_of(settings.endpoint)}{calls}; the plan names "
        "tokens and costs once the candidates are scored"
    )


def build(build: BuildContext) -> dict[str, Any]:
    """Write that there is no judge."""
    write_judgements(build.out, NO_JUDGE, [])
    return NO_JUDGE


def page(artifact: Artifact) -> Page:
    """How often each answer wins, and how consistent the judge is."""
    summary = artifact.summary
    if summary["model"] is None:
        return {}
    pairs = [_numbers({key: pair[key] for key in ("candidate", "rival")}, pair) for pair in summary["pairs"]]
    remarks = [*summary["excluded"], *([summary["problem"]] if summary["problem"] else [])]
    return {
        "verdicts": Table([_numbers({"candidate": "all", "rival": ""}, summary["overall"]), *pairs]),
        "remarks": Points(remarks),
        "judge": f"{summary['model']} at {summary['host']}, prompt version {summary['prompt_version']}",
        "rubric": Hidden(summary["rubric"]),
        "plan": summary["plan"],
        "calls": summary["calls"],
        "cost": summary["cost"],
        "spent": summary["spent"],
    }


def _numbers(names: dict[str, str], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table of verdicts."""
    similar = report["similar_length"]
    return {
        **names,
        "win rate": _with_interval(report["win_rate"]),
        "judged": report["judged"],
        "equal answers": report["identical"],
        "same in both orders": _percent(report["same_in_both_orders"]),
        "first position wins": _with_interval(report["first_position_wins"]),
        "no verdict": _percent(report["unparsable"]),
        "win rate at similar length": f"{_with_interval(similar['win_rate'])} of {similar['judged']}",
        "length-adjusted win rate": _percent(report["length_adjusted"]),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _with_interval(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    bounds = "" if score["low"] is None else f" ({score['low']:.0%} to {score['high']:.0%})"
    return f"{score['value']:.0%}{bounds}"


STEP = step_of(
    __name__,
    stage="evaluation",
    deps=("prompt_baseline", "scores", *feeding("judgements")),
    kinds=frozenset({"parquet"}),
    may_use_gpu=lambda project: judge_of(project.settings.evaluation) is not None,  # as `comparison`, which comes next
    about=_description,
)


_OF_A_PROVIDER = re.compile(r"^ft:([^:]+):.*$")
"""A model that a provider tuned: the name of its base is the first part."""
_FILE_TYPE = re.compile(r"[-._](gguf|awq|gptq|fp8|bf16|q\d\w*|int[48])$")
_FINGERPRINT = re.compile(r" \([0-9a-f]{8}\)$")
"""Follows the name of a base model, if two have the same."""
_VERSION = re.compile(r"[-@:](\d{4}-?\d{2}-?\d{2}|\d{4}|main|latest|[0-9a-f]{7,40})$")


def teachers_of(store: ArtifactStore, scores: Iterable[Artifact]) -> list[str]:
    """Return the names of the teachers that wrote rows in the training of scored models, over all phases."""
    names = set()
    for scored in scores:
        for adapter in phase_adapters(store, store.require(*scored.inputs["adapter"])):
            training_data = store.require(*adapter.inputs["training_data"])
            if "distilled" in training_data.inputs:
                names.add(store.require(*training_data.inputs["distilled"]).spec["config"]["teacher"]["model"])
            if "teacher_distributions" in training_data.inputs:
                distributions = store.require(*training_data.inputs["teacher_distributions"])
                names.add(store.require(*distributions.inputs["base_model"]).spec["config"]["model"])
    return sorted(names)


def reasons_to_exclude(names: Iterable[str], others: Mapping[str, Iterable[str]]) -> list[str]:
    """Return why a judge may not decide, as sentences; empty if it may: a model likes its own style.

    What is compared are names: a server can give a model any name.

    names: of the judge: that in the settings, and those that its replies may have. others: what a model is in this
    project (such as "the teacher of rows in training") → names of such models.
    """
    own = {model_key(name) for name in names}
    return [
        f"The judge is {role} ({name}), and a model likes its own style. Its verdicts decide nothing."
        for role, models in others.items()
        for name in models
        if model_key(name) in own
    ]


def model_key(name: str) -> str:
    """Return a model's name in the form in which two names of one model are most often equal: without its owner,
    version and file type, in lower case."""
    key = _OF_A_PROVIDER.sub(r"\1", _FINGERPRINT.sub("", name.strip())).rsplit("/", 1)[-1].lower()
    while (shorter := _FILE_TYPE.sub("", _VERSION.sub("", key))) != key:
        key = shorter
    return key
