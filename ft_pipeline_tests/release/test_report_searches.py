"""The report shows what searches of prompts tried, each once."""

from pathlib import Path

from ft_pipeline.evaluation.prompt_search.space import variant
from ft_pipeline.evaluation.prompt_search.tries import TRIES_FILE, Measured, Try, add_try
from ft_pipeline.release.report.scores import searches
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec

SUMMARY = {
    "row": "searched",
    "metric": "topic",
    "score": 0.8,
    "of_plain": 0.2,
    "of_given": 0.5,
    "rows": 24,
    "ended": "",
}


def put(store: ArtifactStore, kind: str, inputs: dict[str, Artifact], tries: int | None = None) -> Artifact:
    references = {name: artifact.reference for name, artifact in inputs.items()}
    draft = store.begin(Spec(kind, references, {"tries": tries}))
    for number in range(1, (tries or 0) + 1):
        add_try(draft.out / TRIES_FILE, Try(number, None, variant(), Measured(-0.1 * number, 0.1 * number, 1.0, 9.0)))
    (draft.out / "note").touch()
    return store.commit(draft, {} if tries is None else {"tries": tries, **(SUMMARY if tries else {})})


def test_each_search_is_shown_once_with_its_picture(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    search, nothing = put(store, "searched_prompt", {}, 8), put(store, "searched_prompt", {}, 0)
    baseline = put(store, "prompt_baseline", {"searched_prompt": search})
    other = put(store, "prompt_baseline", {"searched_prompt": search, "base": baseline})
    unasked, plain = put(store, "scores", {"searched_prompt": nothing}), put(store, "scores", {})
    inputs = {"prompt_baseline": baseline, "z/prompt_baseline": other, "a/scores": unasked, "b/scores": plain}
    [shown] = searches(store, put(store, "comparison", inputs))
    assert shown["of"] == "prompt_baseline"
    assert shown["sentence"].startswith("The best of 8 prompts is `searched`: topic 0.8 on 24 validation answers.")
    assert shown["picture"].startswith("data:image/svg+xml,%3Csvg") and shown["picture"].endswith("%3C/svg%3E")
