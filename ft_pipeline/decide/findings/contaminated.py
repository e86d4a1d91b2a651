"""The models that are not compared because they learned from test rows, and what to do about each."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.comparison.result_records import CHAMPION, ContaminatedModel


def contaminated_models(config: Mapping[str, Any]) -> list[ContaminatedModel]:
    """Return the models that a comparison leaves out, the champion last. config: the comparison's settings, with
    `contaminated` (experiment → facts) and `champion` (its record; its facts are under `contaminated`)."""
    experiments = config.get("contaminated", {})
    models = [_record(name, facts, _train_again(name)) for name, facts in experiments.items()]
    champion = config.get("champion") or {}
    if facts := champion.get("contaminated"):
        waits = champion["experiment"] in experiments
        fix = _train_again(champion["experiment"]) if waits else "A candidate that passes the rules takes its place."
        models.append(_record(CHAMPION, facts, fix))
    return models


def _train_again(experiment: str) -> str:
    return f"Train it again with `ft run --experiment {experiment}`."


def _record(model: str, facts: Mapping[str, Any], fix: str) -> ContaminatedModel:
    moved = "1 row that is a test row" if facts["rows"] == 1 else f"{facts['rows']:,} rows that are test rows"
    because = f"learned from {moved} now, or near one, in the conversations of {facts['since']}"
    return ContaminatedModel(model=model, rows=facts["rows"], first=facts["first"], because=because, fix=fix)
