"""The search of a prompt: what it tries, when it ends, what it finds, and that a killed one ends in the same way."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.prompt_search.looks import count_tries, ledger, write_look
from ft_pipeline.evaluation.prompt_search.questions import choose_questions
from ft_pipeline.evaluation.prompt_search.search import NOTHING_TO_GAIN, PATIENCE, Found, search
from ft_pipeline.evaluation.prompt_search.space import Space, Variant, variant
from ft_pipeline.evaluation.prompt_search.tries import Measured, describe, read_tries
from ft_pipeline.execution.metadata import metadata_of_page
from ft_pipeline.project import Project
from ft_pipeline.settings.prompt_variant import RETRIEVED, PromptSearchSettings
from ft_pipeline.small_plots import SHOWN_CHARACTERS
from ft_pipeline.step import STEPS, MissingInput, SpecContext, planned_spec
from ft_pipeline.steps import searched_prompt
from ft_pipeline.steps.shared import rival_specs
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.conftest import JobMaker, conversation
from ft_pipeline_tests.evaluation.moving_rows import load_steps
from ft_pipeline_tests.fixtures.packing import FINISHED, unpack_signed

ROWS = [f"row-{number}" for number in range(12)]
GIVEN = {"short": variant({"system_prompt": "Be brief."}), "shown": variant({"system_prompt": "Name it."}, 3)}
SPACE = Space(GIVEN, "Name the label.", ROWS, most_examples=4)
GOOD = {"row-3": 0.3, "row-7": 0.2}
"""Examples that help, and by how much the share of right answers rises."""


def measured(right: float, tokens: float = 10.0) -> Measured:
    return Measured(-right, right, 1 - right, tokens)


def planted(tried: Variant) -> Measured:
    """A world in which an instruction helps a little, and two of the rows help much as examples."""
    right = 0.2 + 0.1 * bool(tried["system_prompt"])
    return measured(right + sum(GOOD.get(row, 0.0) for row in tried.get("example_rows", ())), 10 + tried["few_shot"])


def run(file: Path, measure: Callable[[Variant], Measured] = planted, tries: int = 60, space: Space = SPACE) -> Found:
    return search(space, measure, file, tries=tries, seed=7)


def test_what_is_given_is_tried_first_with_the_task_and_retrieved_examples(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", tries=5)
    assert [each.name for each in found.tries] == ["plain", "short", "shown", "task", "retrieved"]
    assert [each.variant["system_prompt"] for each in found.tries][3] == "Name the label."
    retrieved = found.tries[4].variant
    assert (retrieved["examples"], retrieved["few_shot"]) == ("retrieved", 4)


def test_examples_that_help_are_found(whole: Found) -> None:
    best = whole.best
    assert best.name is None and {"row-3", "row-7"} <= set(best.variant["example_rows"])
    assert best.variant["system_prompt"] and best.variant["few_shot"] <= 4


def test_the_best_prompt_is_no_worse_than_each_given_one(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", lambda tried: measured(0.9 if tried == GIVEN["shown"] else 0.5))
    assert found.best.name == "shown"


def test_of_two_equal_prompts_the_shorter_one_wins(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", lambda tried: measured(0.2 if tried == variant() else 0.5, 10 + tried["few_shot"]))
    assert found.best.variant["few_shot"] == 0


def test_where_no_prompt_is_better_than_none_the_search_ends_at_once(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", lambda tried: measured(0.9 if tried == variant() else 0.5))
    assert (len(found.tries), found.ended, found.best.name) == (5, NOTHING_TO_GAIN, "plain")


def test_the_search_ends_when_nothing_better_is_found(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", lambda tried: measured(0.9 if tried == GIVEN["short"] else 0.5), tries=500)
    assert len(found.tries) == 2 + PATIENCE and found.ended == "20 tries in a row brought nothing"


def test_the_search_ends_when_all_prompts_were_tried(tmp_path: Path) -> None:
    small = Space({}, "Name the label.", ROWS[:1], most_examples=1)
    found = run(tmp_path / "tries", lambda tried: measured(0.1 + 0.1 * tried["few_shot"]), 500, small)
    assert found.ended and len(found.tries) <= 8
    assert len({str(each.variant) for each in found.tries}) == len(found.tries)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A search that nobody killed."""
    return run(tmp_path_factory.mktemp("whole") / "tries")


# Five prompts are given: a search is killed among them, after them, and in the midst of its own.
@pytest.mark.parametrize("killed_after", [*(pytest.param(n, marks=pytest.mark.long) for n in (1, 5, 6)), 30])
def test_a_killed_search_ends_with_the_same_prompts(tmp_path: Path, whole: Found, killed_after: int) -> None:

    def dies(tried: Variant) -> Measured:
        if len(read_tries(tmp_path / "killed")) == killed_after:
            raise KeyboardInterrupt
        return planted(tried)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dies)
    with (tmp_path / "killed").open("a", encoding="utf-8") as file:
        file.write('{"number": 99, "na')  # the line that a killed process did not finish
    assert run(tmp_path / "killed").tries == whole.tries


def test_another_seed_tries_other_prompts(tmp_path: Path) -> None:
    first = search(SPACE, planted, tmp_path / "1", tries=20, seed=1).tries
    second = search(SPACE, planted, tmp_path / "2", tries=20, seed=2).tries
    assert first != second


def test_a_search_of_no_tries_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        PromptSearchSettings(tries=0)


def put_search(store: ArtifactStore, tries: int, **config: Any) -> Artifact:
    kinds = ("base_model", "conversations") if tries else ()
    inputs = {kind: store.commit(store.begin(Spec(kind, {}, {})), {}).reference for kind in kinds}
    draft = store.begin(Spec("searched_prompt", inputs, config))
    (draft.out / searched_prompt.TRIES_FILE).write_text(str(config), encoding="utf-8")
    return store.commit(draft, {"tries": tries})


def test_each_search_is_one_look_at_the_validation_rows(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first, second, empty = put_search(store, 12, a=1), put_search(store, 30, a=2), put_search(store, 0)
    for made in (first, first, second, empty, first):
        write_look(tmp_path, made)
    assert [(look.sequence, look.search, look.tries) for look in ledger(tmp_path).read()] == [
        (1, first.fingerprint, 12),
        (2, second.fingerprint, 30),
    ]
    assert count_tries(tmp_path) == 42 and list(ledger(tmp_path).faults()) == []


def test_the_page_shows_the_best_tries_and_the_prompt(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", tries=15)
    draft = ArtifactStore(tmp_path / "store").begin(Spec("searched_prompt", {}, {}))
    (draft.out / searched_prompt.TRIES_FILE).write_bytes((tmp_path / "tries").read_bytes())
    summary = searched_prompt.summarize(found, GIVEN, "topic", 20)
    page = searched_prompt.page(ArtifactStore(tmp_path / "store").commit(draft, summary))
    assert page["search"].text.startswith("The best of 15 prompts is `searched`: topic ")
    assert page["best_tries"].rows[0]["try"] == found.best.number and len(page["best_tries"].rows) == 10
    shown = metadata_of_page(page)
    assert shown["curve"].value == page["curve"].markdown  # a break in it would show its source
    assert "svg" in page["curve"].markdown and len(page["curve"].markdown) <= SHOWN_CHARACTERS
    assert found.best.variant["example_rows"][0][:12] in page["prompt"].text


LABELS = ["refund", "delivery", "account"]


def job_over(
    make_job: JobMaker, folder: Path, splits: dict[str, int], first: tuple[str, ...] = (), **config: Any
) -> dict[str, Any]:
    """first: turns before the question."""
    rows = [
        conversation(split, *first, f"Question {number} of {split}", LABELS[number % len(LABELS)])
        for split, count in splits.items()
        for number in range(count)
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    given = {"told": {"system_prompt": "Name the label."}}
    settings = {"search": {"tries": 8, "most_examples": 2}, "task": "", "given": given, "metric": "auto"}
    job = make_job("searched_prompt", "search", {"conversations": folder}, **{**settings, **config})
    own = {key: value for key, value in job.config.items() if key in searched_prompt.Config.model_fields}
    own["evaluation"].pop("max_test_rows", None)
    return searched_prompt.run(replace(job, config=own))


def test_prompts_are_compared_on_validation_rows_with_examples_of_train_rows(
    make_job: JobMaker, tmp_path: Path
) -> None:
    splits = {"train": 6, "validation": 5, "test": 4}
    summary = job_over(make_job, tmp_path / "rows", splits)
    assert summary["rows"] == 5 and summary["metric"] == "exact match" and summary["score"] >= summary["of_given"]
    tries = read_tries(tmp_path / "search" / "out" / searched_prompt.TRIES_FILE)
    assert len(tries) == summary["tries"] <= 8 and tries[0].name == "plain"
    train = {conversation("train", f"Question {n} of train", LABELS[n % 3])["id"] for n in range(6)}
    assert {row for each in tries for row in each.variant.get("example_rows", ())} <= train


def test_train_rows_are_questions_beside_few_validation_rows() -> None:
    """None of them, nor a row of its split group, is an example for another question."""
    counts = {"train": 40, "validation": 5, "test": 4}
    rows = [
        conversation(split, f"Question {n} of {split}", "yes") for split, count in counts.items() for n in range(count)
    ]
    train = [row["id"] for row in rows if row["split"] == "train"]
    groups = {name: f"pair-{number // 2}" for number, name in enumerate(train)}
    found = choose_questions(rows, groups, train[:6], asks_train_rows=True)
    asked = [item.group for item in found.items if item.group in groups]
    assert len(found.items) == 5 + 10 and len(asked) == found.train_rows == 10
    assert not {groups[name] for name in asked} & {groups[name] for name in train[:6]}
    assert not {groups[name] for name in asked} & {groups.get(row["id"]) for row in found.rows}
    assert len([row for row in found.rows if row["split"] == "validation"]) == 5
    tuned = choose_questions(rows, groups, (), asks_train_rows=False)
    assert len(tuned.items) == 5 and tuned.rows == rows


def test_a_search_over_train_rows_says_so(make_job: JobMaker, tmp_path: Path) -> None:
    splits = {"train": 60, "validation": 3, "test": 2}
    summary = job_over(make_job, tmp_path / "rows", splits, asks_train_rows=True, metric="nats_per_byte")
    assert (summary["rows"], summary["train_rows"]) == (18, 15)
    assert "on 18 answers to validation rows, and to train rows that no prompt shows" in describe(summary)


def test_a_likelihood_decides_without_an_answer(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM

    monkeypatch.setattr(LoadedLM, "answer_prompts", None)
    summary = job_over(make_job, tmp_path / "rows", {"train": 4, "validation": 3, "test": 2}, metric="nats_per_byte")
    assert summary["metric"] == "nats per byte" and summary["score"] <= summary["of_plain"]


def test_without_validation_rows_no_prompt_is_searched(make_job: JobMaker, tmp_path: Path) -> None:
    summary = job_over(make_job, tmp_path / "rows", {"train": 4, "test": 2})
    assert summary["tries"] == 0 and summary["ended"].startswith("There are no validation rows")
    draft = ArtifactStore(tmp_path / "store").begin(Spec("searched_prompt", {}, {}))
    page = searched_prompt.page(ArtifactStore(tmp_path / "store").commit(draft, summary))
    assert page["search"].text.endswith("Raise data.validation_share.")


def searching(folder: Path, monkeypatch: pytest.MonkeyPatch, search: str) -> SpecContext:
    """The first experiment of a finished project that now searches a prompt."""
    load_steps(monkeypatch)
    root = unpack_signed(FINISHED, folder)
    monkeypatch.chdir(root)
    settings = (root / "project.yaml").read_text(encoding="utf-8")
    changed = settings.replace("prompting:\n", f"prompting:\n  search: {search}\n")
    (root / "project.yaml").write_text(changed, encoding="utf-8")
    project = Project(root)
    assert project.settings.prompting.search is not None
    return SpecContext(project, ArtifactStore(project.store), project.experiment_names()[0])


def test_a_project_that_turns_the_search_on_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact that it has says only that no search was asked for."""
    context = searching(tmp_path, monkeypatch, "{}")
    assert "searched" not in planned_spec(STEPS["prompt_baseline"], context).config["prompting"]["variants"]


def test_a_reflector_without_its_extra_is_refused_before_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = searching(tmp_path, monkeypatch, "{}")
    file = context.project.root / "project.yaml"
    other = "{name: other, model: m, endpoint: {url: 'http://127.0.0.1:1/v1'}}"
    changed = file.read_text(encoding="utf-8").replace("search: {}", "search: {reflector: other}")
    file.write_text(changed.replace("evaluation:\n", f"evaluation:\n  contenders: [{other}]\n"), encoding="utf-8")
    context = replace(context, project=Project(context.project.root))
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(UserError, match=r"^prompting\.search\.reflector needs the extra `reflector`\."):
        planned_spec(STEPS["searched_prompt"], context)


def test_a_tuned_model_is_scored_with_the_prompt_that_was_searched_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = searching(tmp_path, monkeypatch, "{for: [base, tuned]}")
    with pytest.raises(MissingInput) as missing:
        planned_spec(STEPS["scores"], context)
    wanted = missing.value.spec
    assert (
        wanted.kind == "searched_prompt" and wanted.inputs["base_model"] == context.artifact("merged_model").reference
    )
    best = variant({"system_prompt": "Name the topic."})
    draft = context.store.begin(wanted)
    (draft.out / searched_prompt.TRIES_FILE).write_text("", encoding="utf-8")
    made = context.store.commit(draft, {"tries": 9, "row": "searched", "variant": best})
    scores = planned_spec(STEPS["scores"], context)
    assert scores.config["prompting"]["variants"]["searched"] == best
    assert scores.inputs["searched_prompt"] == made.reference


def test_the_labels_are_chosen_under_the_searched_prompt_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = searching(tmp_path, monkeypatch, "{}")
    monkeypatch.setattr(rival_specs, "_labels", lambda context: ["refund", "delivery"])
    baseline = context.artifact("prompt_baseline")
    fixed, retrieved = variant({"system_prompt": "Name it."}), variant(None, 2, examples="retrieved")
    for best, is_there in ((fixed, True), (retrieved, False)):
        config = {**baseline.spec["config"], "prompting": {"variants": {"searched": best}}}
        made = context.store.commit(context.store.begin(Spec("prompt_baseline", baseline.inputs, config)), {})
        with pytest.raises(MissingInput) as missing:
            rival_specs.calibrated_artifacts(context, {"qlora/prompt_baseline": made})
        assert ("searched" in missing.value.spec.config["calibrated"]["variants"]) == is_there


def test_the_search_for_a_tuned_model_changes_nothing_for_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = planned_spec(STEPS["searched_prompt"], searching(tmp_path / "1", monkeypatch, "{for: [base, tuned]}"))
    alone = planned_spec(STEPS["searched_prompt"], searching(tmp_path / "2", monkeypatch, "{}"))
    only_tuned = planned_spec(STEPS["searched_prompt"], searching(tmp_path / "3", monkeypatch, "{for: [tuned]}"))
    assert both.hash == alone.hash and only_tuned.inputs == {}


def test_a_tuned_model_keeps_the_prompt_of_its_training(make_job: JobMaker, tmp_path: Path) -> None:
    splits = {"train": 4, "validation": 3, "test": 2}
    tokens = []
    for number, own in enumerate(({}, {"system_prompt": "Be kind to each customer.", "reasoning": "keep"})):
        summary = job_over(make_job, tmp_path / f"rows-{number}", splits, metric="nats_per_byte", own=own)
        assert summary["tries"] >= 2
        plain, told = read_tries(tmp_path / "search" / "out" / searched_prompt.TRIES_FILE)[:2]
        tokens.append((plain.measured.prompt_tokens, told.measured.prompt_tokens))
        (tmp_path / "search" / "work" / searched_prompt.TRIES_FILE).unlink()
    assert tokens[1][0] > tokens[0][0] and tokens[1][1] == tokens[0][1]


def test_without_single_turn_rows_the_search_goes_on_without_examples(make_job: JobMaker, tmp_path: Path) -> None:
    """Nobody asked for `retrieved`, which prompt_baseline leaves out there, too."""
    given = {"told": {"system_prompt": "Name the label."}, RETRIEVED: {"examples": "retrieved", "few_shot": 4}}
    splits = {"train": 8, "validation": 6}
    summary = job_over(make_job, tmp_path / "rows", splits, first=("Hello", "How can I help?"), given=given)
    assert summary["tries"] > 0 and not summary["variant"]["few_shot"]
