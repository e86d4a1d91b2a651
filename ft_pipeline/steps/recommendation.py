"""What to do next: fine-tune or not, with what, and why.

**Look here** for the answer to "should we fine-tune?", with its reasons (`ft recommend` prints the same).

**If it says `more_data`, `rate`, `measure` or `train`:** the scores cannot decide yet. The verdict says what is
missing.
"""

import contextlib
from typing import Any

from ft_pipeline.decide.desk import Decided, Desk
from ft_pipeline.decide.documents import has_advice, read_advice, whole_comparison
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.recommend import build_recommendation
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.training_facts import training_facts_of
from ft_pipeline.evaluation.metrics.single_answers import checks_of
from ft_pipeline.features import feeding
from ft_pipeline.page import Page, Points, Words
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.objectives.registry import OBJECTIVES


class Config(StepConfig):
    """What the recommendation is made from, besides the comparison and the decision."""

    min_test_rows: int
    at_hand: DataAtHand


def spec(context: SpecContext) -> Spec:
    """Return the spec of the recommendation."""
    config = Config(min_test_rows=context.project.settings.promotion.min_test_rows, at_hand=_data_at_hand(context))
    inputs = {name: context.artifact(name) for name in ("comparison", "decision")}
    further = {name: context.find(name) for name in feeding("recommendation")}
    inputs |= {name: found for name, found in further.items() if found and not found.redacted and has_advice(found)}
    return spec_of("recommendation", inputs, config)


def _data_at_hand(context: SpecContext) -> DataAtHand:
    """What the project has to train on. Tables are named and not counted, so that a new row changes nothing here."""
    tables = {spec.fits[0] for spec in OBJECTIVES.values() if spec.fits is not None}
    with_rows = [name for name in sorted(tables) if _has_rows(context.find(name))]
    experiments: dict[str, list[str]] = {}
    for name in context.project.experiment_names():
        with contextlib.suppress(UserError):  # the plan and the UI report a broken YAML
            if not is_sweep_member(name):
                experiments.setdefault(context.project.experiment(name).objective, []).append(name)
    return DataAtHand(with_rows, checks_of(context.project.settings.evaluation), experiments)


def _has_rows(table: Artifact | None) -> bool:
    summary = table.summary if table is not None else {}
    return bool(summary.get("accepted") or sum(summary.get("splits", {}).values()))


def build(build: BuildContext) -> dict[str, Any]:
    """Write recommendation.json."""
    comparison_artifact = build.artifact("comparison")
    document = build.artifact("decision").document("decision.json")
    comparison = whole_comparison(comparison_artifact)
    config = Config.of(build.spec)
    desk = Desk(
        comparison,
        as_shown(comparison),
        training_facts_of(build.store, comparison_artifact.inputs),
        config.min_test_rows,
        Decided.of(document),
        config.at_hand.describe_fits(comparison),
    )
    further = [sentence for advice in read_advice(build.store, build.spec.inputs) for sentence in advice["sentences"]]
    return build_recommendation(desk, document["verdict"]["sentence"], build.out, further)


def page(artifact: Artifact) -> Page:
    """What to do next, and why."""
    summary = artifact.summary
    return {
        "verdict": Words(summary["verdict"]) if "verdict" in summary else None,  # older artifacts lack it
        "decision": summary["decision"],
        "row": summary.get("row"),
        "reasons": Points(summary["reasons"]),
        "evidence": summary["evidence"],
    }


STEP = step_of(
    __name__,
    stage="evaluation",
    deps=("comparison", "decision", *feeding("recommendation")),
    kinds=frozenset({"json"}),
    code_version="8",
)
