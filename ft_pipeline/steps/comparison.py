"""Every model and prompt in one table, on the same test rows, with 95 % intervals and the costs of a call.

**Look here** at `leads`: a bar right of the line is better than the best untouched use of the model. One that
crosses the line may be chance.

**If it fails:** there are no scores on the current test rows yet. Run `ft run` (docs/evaluation.md).
"""

from typing import Any

from ft_pipeline import features
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.plots import (
    confusion_picture,
    learning_curve_picture,
    score_picture,
    shown_leads,
    slice_picture,
    small_lead_plot,
)
from ft_pipeline.decide.sections import score_cell, score_grid
from ft_pipeline.evaluation.comparison.slice_members import scored_conversations
from ft_pipeline.evaluation.comparison.training_facts import training_facts_of
from ft_pipeline.features import feeding
from ft_pipeline.page import Hidden, Image, Page, Picture, Table
from ft_pipeline.release.looks import decided_by, ids_of_test_rows, write_looks_at_comparison
from ft_pipeline.step import BuildContext, SpecContext, references, step_of, versions_of
from ft_pipeline.steps.shared.compared_scores import compared_scores, people_said
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


def spec(context: SpecContext) -> Spec:
    """Return the spec of the comparison of all current scores."""
    compared = compared_scores(context)
    inputs, config = dict(compared.inputs), dict(compared.config)
    opinions = people_said(context)
    for of_feature in features.call("opinions", context):
        opinions |= of_feature
        newest = next(iter(of_feature.values()), None)
        if newest is not None and (problem := newest.summary.get("problem")):
            config["not_asked"] = [*config.get("not_asked", ()), problem]
    inputs |= references(opinions)
    return Spec("comparison", inputs, config, versions_of("numpy", "scipy"))


def build(build: BuildContext) -> dict[str, Any]:
    """Compare them, and write comparison.json and comparison.md."""
    config, inputs = build.spec.config, build.spec.inputs
    conversations = scored_conversations(build.store, inputs, config["fingerprint"])
    has_price = config.get("prices", {}).get("label") is not None
    facts = training_facts_of(build.store, inputs, count_labels=has_price)
    return build_comparison(build.inputs, config, build.out, facts, conversations)


def look(context: SpecContext, artifact: Artifact) -> None:
    """Record a look at each row of the comparison."""
    write_looks_at_comparison(context.store, artifact, decided_by(context.project.settings), ids_of_test_rows(artifact))


def page(artifact: Artifact) -> Page:
    """The leads, the rows and the pictures."""
    comparison = read_comparison(artifact)
    learning_curve, leads = learning_curve_picture(comparison), small_lead_plot(comparison)
    slices = slice_picture(comparison)
    best = next((row.name for row in comparison.rows if row.kind != "gguf"), None)
    labels = confusion_picture([matrix for matrix in comparison.confusions if matrix.row == best])
    markdown = (artifact.path / "comparison.md").read_text(encoding="utf-8")
    return {
        "leads": Picture(leads) if leads else None,
        "rows": _shown_rows(comparison),
        "comparison": Hidden(markdown),
        "picture": Image(score_picture(comparison), "scores with 95 % intervals"),
        "learning_curve": Image(learning_curve, "the primary metric by training rows") if learning_curve else None,
        "slices": Image(slices, "leads in slices, with 95 % intervals") if slices else None,
        "labels": Image(labels, "labels of the references and of the best row's answers") if labels else None,
        "test_items": comparison.test_items,
        "best": best,
        "left_out": artifact.summary["left_out"] or None,
    }


def _shown_rows(comparison: Comparison) -> Table:
    """Return the grid of all scores. What decides, and the lead over the best untouched use, come first."""
    grid, baseline, decides = score_grid(comparison), shown_leads(comparison)[0], comparison.metric()
    about = {"": "The model or prompt", decides.label: f"What decides: {decides.direction}, with the 95 % interval"}
    if not all(map(comparison.usable, comparison.rows)):
        about["usable"] = "Whether it may be released"
    if baseline is not None:
        about["lead"] = f"By how much it is better than {baseline.name}, with the 95 % interval"
    titles = [decides.label if heading.is_main else heading.title for heading in grid.headings]
    rows = []
    for row, cells in zip(comparison.rows, grid.cells, strict=True):
        lead = comparison.lead_over(row, baseline) if baseline and row.name != baseline.name else None
        texts = dict(zip(titles, (cell.in_full for cell in cells), strict=True))
        beside = {"usable": "yes" if comparison.usable(row) else "no", "lead": score_cell(lead).in_full}
        rows.append({**dict.fromkeys(about), **texts, **{name: beside[name] for name in beside if name in about}})
    return Table(rows, about)


STEP = step_of(
    __name__,
    stage="evaluation",
    deps=("prompt_baseline", "scores", *feeding("comparison")),
    kinds=frozenset({"json", "markdown"}),
    code_version="14",
    may_use_gpu=True,  # scores the champion and the contenders that have no score on the current test rows
)
