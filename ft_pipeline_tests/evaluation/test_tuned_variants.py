"""Tuned models under a prompt variant: their scores, their rows in a comparison, and what is recommended."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.released import Candidate
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring import tuned_scores
from ft_pipeline.evaluation.scoring.prompt_sources import example_rows, shown_texts
from ft_pipeline.evaluation.tuned_variants import scored_with, serving_of, without_variant
from ft_pipeline.project import Project
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.project import PromptingSettings
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.settings.yaml_file import read_settings
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.shared.scoring_specs import _prompt_inputs, covers, served_settings
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.decide.rules import champion_record, decide, desk_of
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, JobMaker, conversation
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, losses, scored

PASSAGES = {"passages": 2, "passage_words": 120, "few_shot": 0, "examples": "fixed", "system_prompt": None}
OWN = {"technique": "lora", "quantization": None, "system_prompt": "Be kind."}
LEAK = "My package is late.\n\nSorry about the delay. Please send your order number."
"""A row of the test split."""
TEXTS = [LEAK, "Parcels are late in winter."]


# --- settings and specs -----------------------------------------------------------------------------------------------


def test_only_variants_of_the_project_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "prompting.yaml"
    path.write_text("variants: {brief: {system_prompt: Be brief.}}\ntuned_with: [passages]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2.*there is no prompt variant 'passages'. Choose from: brief"):
        read_settings(path, PromptingSettings)


def test_settings_without_it_are_those_of_older_versions() -> None:
    plain = PromptingSettings.model_validate({"variants": {"passages": PASSAGES}})
    assert plain.model_dump(mode="json").keys() == {"variants"}
    assert served_settings(ExperimentSettings(), plain).keys() == OWN.keys()
    chosen = plain.model_copy(update={"tuned_with": ["passages"]})
    assert served_settings(ExperimentSettings(), chosen)["prompting"] == {"variants": {"passages": PASSAGES}}


def context_of(root: Path) -> SpecContext:
    return SpecContext(Project(root), ArtifactStore(root / "store"))


@pytest.mark.parametrize(
    ("variant", "frozen", "expected"),
    [
        ({"few_shot": 2}, {}, {}),
        ({"passages": 1}, {"text": "t0", "conversations": "c0"}, {"text": ("text", "t0")}),
        ({"few_shot": 2, "examples": "retrieved"}, {"conversations": "c0"}, {"examples": ("conversations", "c0")}),
        ({"few_shot": 2, "examples": "retrieved"}, {"conversations": "c1"}, {}),
        ({"few_shot": 2, "examples": "retrieved"}, {}, {}),
    ],
)
def test_a_champion_is_scored_with_what_it_was_released_with(
    tmp_path: Path, variant: dict[str, Any], frozen: dict[str, str], expected: dict[str, Any]
) -> None:
    present = {"conversations": ("conversations", "c1")}
    assert _prompt_inputs(context_of(tmp_path), present, {"one": variant}, frozen) == expected


def test_scores_with_more_variants_cover_those_of_a_champion(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    inputs = {kind: store.commit(store.begin(Spec(kind, {}, {})), {}).reference for kind in ("conversations", "text")}

    def spec(variants: Mapping[str, Any], **changed: Any) -> Spec:
        prompting = {"prompting": {"variants": variants}} if variants else {}
        return Spec("scores", {**inputs, **changed}, {**OWN, **prompting}, {"bm25s": "1"})

    made = store.commit(store.begin(spec({"a": PASSAGES, "b": {"few_shot": 2}})), {})
    assert covers(made, spec({"a": PASSAGES}))
    assert covers(made, spec({}))
    assert not covers(made, spec({"a": {**PASSAGES, "passages": 3}}))
    assert not covers(made, spec({"a": PASSAGES}, text=("text", "older")))


def test_how_a_row_is_scored_and_served() -> None:
    config = {
        **OWN,
        "evaluation": {},
        "prompting": {"variants": {"a+b": PASSAGES, "c": {"system_prompt": "Be brief."}}},
    }
    assert scored_with(config, "merged") == OWN
    recorded = scored_with(config, "merged+a+b")
    assert recorded == {**OWN, "variant": "a+b", "prompting": {"variants": {"a+b": PASSAGES}}}
    served = serving_of(recorded)
    assert (served["system_prompt"], served["passages"], served["variant"]) == ("Be kind.", 2, "a+b")
    assert serving_of(scored_with(config, "merged+c"))["system_prompt"] == "Be brief."
    assert without_variant(served) == without_variant(serving_of(scored_with(config, "merged+c"))) == OWN
    assert serving_of(OWN) == without_variant(OWN) == OWN


# --- scores -----------------------------------------------------------------------------------------------------------


def test_the_released_form_is_scored_under_each_variant(
    make_job: JobMaker, tiny_adapter: Path, tiny_merged: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    pq.write_table(pa.table({"text": TEXTS}), text / "rows.parquet")
    inputs = {"adapter": tiny_adapter, "merged_model": tiny_merged, "text": text}
    variants = {"passages": {**PASSAGES, "passages": 1}}
    job = make_job("scores", "tuned", inputs, **{**OWN, "technique": "full"}, prompting={"variants": variants})
    tuned_scores.run(job)
    rows = json.loads((job.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == [("merged", "merged"), ("merged+passages", "merged")]
    assert rows[0]["fingerprint"] == rows[1]["fingerprint"]
    assert rows[0]["general"] == rows[1]["general"] is not None
    assert rows[1]["model"]["passages"] == 1
    assert rows[1]["model"]["system_prompt"] == "Be kind."
    prompts = {
        (sample["name"], sample["item"]): sample["prompt"]
        for sample in pq.read_table(job.out / "samples.parquet").to_pylist()
    }
    assert all("Be kind." in prompt for prompt in prompts.values())
    assert {name for (name, _), prompt in prompts.items() if TEXTS[1] in prompt} == {"merged+passages"}
    assert not any(LEAK.split("\n\n")[1] in prompt for prompt in prompts.values())
    general = pq.read_table(job.out / "general.parquet").to_pylist()
    by_name = [
        [{**row, "name": ""} for row in general if row["name"] == name] for name in ("merged", "merged+passages")
    ]
    assert by_name[0] == by_name[1] != []


def test_earlier_examples_that_are_held_out_now_and_erased_rows_are_not_shown(tmp_path: Path) -> None:
    """A row of the train split may be a test row later."""
    moved = conversation("train", "My package is late.", "Sorry about the delay. Please send your order number.")
    erased = {**conversation("train", "Who am I?", "You are Mrs Fenwick."), "id": "excluded:" + "0" * 64}
    now, earlier, text = (tmp_path / name for name in ("now", "earlier", "text"))
    for folder, rows in ((now, CONVERSATIONS), (earlier, [*CONVERSATIONS[:2], moved, erased])):
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    text.mkdir()
    rows = [{"id": "excluded:" + "1" * 64, "text": "[forgotten]"}, {"id": "a", "text": TEXTS[1]}]
    pq.write_table(pa.Table.from_pylist([*rows, {"id": "b", "text": TEXTS[0]}]), text / "rows.parquet")
    sources = {"conversations": now, "examples": earlier, "text": text}
    assert [row["id"] for row in example_rows(sources)] == [row["id"] for row in CONVERSATIONS[:2]]
    assert shown_texts(sources) == ([TEXTS[1]], 1)


# --- comparison, decision, recommendation -----------------------------------------------------------------------------


def compared(folder: Path, with_passages: float, plain: float = 1.3, **more: float) -> Comparison:
    """An experiment `lora` with a row for its own prompt and one with passages. more: levels of its second seed."""
    base = {"plain": {"kind": "base", "losses": losses(2.0), "correct": CORRECT}}
    base["looked_up"] = {"kind": "prompt", "losses": losses(1.6), "passages": 2}
    inputs = {"lora/prompt_baseline": scored(folder / "base", base)}
    levels = {"lora": (plain, with_passages)} | ({"lora.seed1": (more["seed"], more["seed_with"])} if more else {})
    for name, (own, prompted) in levels.items():
        about: dict[str, Any] = {"kind": "merged", "technique": "lora", "correct": CORRECT}
        rows = {
            "merged": {**about, "losses": losses(own)},
            "merged+looked_up": {**about, "losses": losses(prompted), "passages": 2, "tokens": 90},
        }
        inputs[f"{name}/scores"] = scored(folder / name, rows)
    return compare(inputs, CONFIG)


def candidates(comparison: Comparison) -> dict[str, Candidate]:
    return {
        row.name: Candidate(
            name=row.name,
            kind="merged",
            experiment="lora",
            fingerprint=row.name,
            fingerprints={},
            gates={"token_audit": True},
        )
        for row in comparison.rows
        if row.kind == "merged"
    }


def test_the_best_prompt_of_a_tuned_model_becomes_champion(tmp_path: Path) -> None:
    comparison = compared(tmp_path, with_passages=0.8)
    row = comparison.row("lora/merged+looked_up")
    assert row is not None
    assert (row.variant, [claim.verdict for claim in comparison.about(row, "general")]) == ("looked_up", ["shown"])
    settings = PromotionSettings(min_test_rows=10)
    decision = decide(comparison, candidates(comparison), settings, None)
    assert (decision.move, decision.name) == (True, "lora/merged+looked_up")
    assert [test.name for test in decision.tests] == ["lora/merged+looked_up", "lora/merged"]
    found = recommend(desk_of(comparison, {"lora": {"train_rows": 800}}, 10))
    assert (found["decision"], found["row"], found["experiment"]) == ("lora", "lora/merged+looked_up", "lora")
    assert not any("tuned_with" in reason for reason in found["reasons"])


def test_the_own_prompt_is_simpler_if_it_keeps_the_lead(tmp_path: Path) -> None:
    comparison = compared(tmp_path, with_passages=0.98, plain=1.0)
    assert comparison.rows[0].name == "lora/merged+looked_up"
    decision = decide(comparison, candidates(comparison), PromotionSettings(min_test_rows=10), None)
    assert decision.name == "lora/merged"
    found = recommend(desk_of(comparison, {"lora": {"train_rows": 800}}, 10))
    assert found["row"] == "lora/merged"
    assert "and its prompt is the simpler one." in found["reasons"][0]


def test_a_champion_with_passages_is_beaten_by_its_rival_only(tmp_path: Path) -> None:
    """The champion is a row of the comparison: the same weights under another prompt are another candidate."""
    comparison = compared(tmp_path, with_passages=0.8)
    record = champion_record("lora/merged+looked_up", "lora", "lora/merged+looked_up", since="", reason="")
    decision = decide(comparison, candidates(comparison), PromotionSettings(min_test_rows=10), record)
    assert not decision.move
    assert decision.failed["lora/merged+looked_up"] == ["is already the champion"]
    assert decision.failed["lora/merged"][0].startswith("champion: does not beat lora/merged+looked_up")


def test_seeds_are_grouped_by_form_and_prompt(tmp_path: Path) -> None:
    comparison = compared(tmp_path, with_passages=0.8, seed=1.4, seed_with=0.9)
    spreads = {spread.row: spread.scores["loss"].values for spread in comparison.seeds}
    assert spreads == {
        "lora/merged": pytest.approx([1.3, 1.4], abs=0.3),
        "lora/merged+looked_up": pytest.approx([0.8, 0.9], abs=0.3),
    }
    assert spreads["lora/merged"][1] - spreads["lora/merged+looked_up"][1] == pytest.approx(0.5)
    assert [row.name for row in comparison.rows if row.experiment] == ["lora/merged+looked_up", "lora/merged"]


def test_passages_that_help_are_proposed_for_tuned_models(tmp_path: Path) -> None:
    base = {"plain": {"kind": "base", "losses": losses(2.0)}, "few": {"kind": "prompt", "losses": losses(1.9)}}
    base["looked_up"] = {"kind": "prompt", "losses": losses(1.6), "passages": 2}
    tuned = {"merged": {"kind": "merged", "technique": "lora", "losses": losses(1.0)}}
    inputs = {"lora/prompt_baseline": scored(tmp_path / "base", base), "lora/scores": scored(tmp_path / "lora", tuned)}
    found = recommend(desk_of(compare(inputs, CONFIG), {"lora": {"train_rows": 800}}, 10))
    assert any("`prompting.tuned_with: [looked_up]`" in reason for reason in found["reasons"])
