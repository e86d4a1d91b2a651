"""What the searches of prompts tried, for the report: they saw no test row."""

from ft_pipeline.evaluation.prompt_search.tries import TRIES_FILE, describe, read_tries
from ft_pipeline.small_plots import tries_plot
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

SEARCH = "searched_prompt"
"""The input of scores with the search of a prompt."""


def searches(store: ArtifactStore, comparison: Artifact) -> list[dict[str, str]]:
    """Return each search that scores of a comparison rest on: `of` (the scores), `sentence`, `picture` (data URI)."""
    found: dict[str, dict[str, str]] = {}
    for name, reference in comparison.inputs.items():
        search = store.require(*reference).inputs.get(SEARCH)
        if search is not None and search[1] not in found:
            found[search[1]] = _values(name, store.require(*search))
    return [values for values in found.values() if values]


def _values(name: str, search: Artifact) -> dict[str, str]:
    summary = search.summary
    if not summary["tries"]:
        return {}
    plot = tries_plot([each.measured.score for each in read_tries(search.path / TRIES_FILE)], summary["metric"])
    return {"of": name, "sentence": describe(summary), "picture": plot.partition("](<")[2].removesuffix(">)")}
