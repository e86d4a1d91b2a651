"""What the pages of scores show, and the record of a look at them."""

from typing import Any

from ft_pipeline.decide.plots import confusion_picture
from ft_pipeline.decide.sections import field_sections
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults
from ft_pipeline.evaluation.comparison.check_results import results_of_scores
from ft_pipeline.evaluation.prompt_search.looks import write_look
from ft_pipeline.page import Hidden, Image, Page, Points, Section, Table
from ft_pipeline.page_markdown import markdown_of
from ft_pipeline.release.looks import decided_by, write_looks_at_scores
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.step import SpecContext
from ft_pipeline.store.artifacts import Artifact

COSTS = ("prompt_tokens_per_call", "seconds_per_call", "generated_tokens_per_call")
TESTS_ARE_COMPARED = "`comparison` shows the test scores, if the model leads on the validation rows."


def look_at_scores(context: SpecContext, artifact: Artifact) -> None:
    """Record a look at each model and prompt of some scores. Members of a sweep are never released."""
    experiment = context.experiment or ""
    if "searched_prompt" in artifact.inputs:
        write_look(context.store.root, context.store.require(*artifact.inputs["searched_prompt"]))
    if not is_sweep_member(experiment):
        write_looks_at_scores(context.store, artifact, experiment, decided_by(context.project.settings))


def scores_page(artifact: Artifact) -> Page:
    """The scores of each row, what the checks found, and notes."""
    rows = []
    for row in artifact.summary["rows"]:
        values = {metric: score["value"] for metric, score in row["scores"].items()}
        cost = {key: row[key] for key in COSTS}
        rows.append({"name": row["name"], **values, **(row.get("general") or {}), **cost})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    metadata = {"scores": Table([{key: row.get(key, "") for key in keys} for row in rows]), **_checks(artifact)}
    return metadata | {"notes": Points(artifact.summary.get("notes") or [])}


def _checks(artifact: Artifact) -> dict[str, Any]:
    """What the checks of the project found in the answers: the fields that are right, and the labels."""
    settings = artifact.spec["config"].get("custom_metrics", {})
    labels = {name: entry["labels"] for name, entry in settings.items() if "labels" in entry}
    fields, matrices = results_of_scores(artifact.path, labels)
    results: list[FieldResults | Confusion] = [*fields, *matrices]
    worst = [sentence for result in results for sentence in result.describe_worst()]
    drawn = confusion_picture(matrices)
    metadata: dict[str, Any] = {}
    if fields or worst:
        metadata |= {"checks": Points(worst)}
        metadata["all_checks"] = Hidden(markdown_of([*field_sections(fields), Section(sentences=worst)]))
    return metadata | ({"labels": Image(drawn, "labels of the references and of the answers")} if drawn else {})
