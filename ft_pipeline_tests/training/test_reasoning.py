"""`data.reasoning`: reasoning is trained, only shown, or left out; training and scoring do the same."""

import json
import shutil

import pytest

from ft_pipeline.evaluation.items import make_items
from ft_pipeline.evaluation.scoring.prompts import Prompt, fitting_items
from ft_pipeline.evaluation.tuned_variants import scored_with, serving_of, without_variant
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.models.reasoning import begin_of_answer, without_reasoning
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline_tests.release.chat_families import of_trl
from ft_pipeline_tests.training.subject import (
    conversation,
    known_rows,
    make_training_data,
    preference_rows,
    settings,
    support_rows,
)
from ft_pipeline_tests.training.test_objectives import experiment, make

FIRST, SECOND = "Look it up first", "The tool says so"
ROW = conversation(500, [("Where is it?", "It is heliotrope."), ("And now?", f"<think>{SECOND}</think>Late.")], "train")
ROW["messages"][1]["reasoning_content"] = FIRST


@pytest.fixture
def base(tmp_path, tiny_base):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(of_trl("qwen3"))
    return folder


def with_choice(chosen, choice):
    return chosen.model_copy(update={"data": chosen.data.model_copy(update={"reasoning": choice})})


def texts_of(folder, base, row_id, split="train"):
    tokenizer = load_tokenizer(base)
    rows = [row for row in read_split(folder, split) if row["id"] == row_id]
    trained = [tokenizer.decode([label for label in row["labels"] if label >= 0]) for row in rows]
    return [tokenizer.decode(row["input_ids"]) for row in rows], trained


@pytest.mark.parametrize("choice", ["train", "keep", "drop"])
def test_reasoning_is_trained_shown_or_left_out_and_counted(tmp_path, base, choice):
    folder = make_training_data(tmp_path, base, [ROW, *support_rows()], with_choice(settings(), choice))
    report = json.loads((folder / "audit.json").read_text())
    assert failures(report) == []
    texts, trained = texts_of(folder, base, ROW["id"])
    shown, learned = "".join(texts), "".join(trained)
    assert "It is heliotrope.<|im_end|>" in learned and "Late.<|im_end|>" in learned
    for thought in (FIRST, SECOND):
        assert (thought in shown, thought in learned) == (choice != "drop", choice == "train")
    counts = report["reasoning"]
    assert (counts["choice"], counts["rows"], counts["turns"]) == (choice, 1, 2)
    assert counts["left_out"] == (2 if choice == "drop" else 0)
    tokenizer = load_tokenizer(base)
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (FIRST, SECOND))
    assert counts["trained_tokens"] == (tokens if choice == "train" else 0)
    # Qwen3's template removes the reasoning of the first answer from the prompt of the second.
    assert counts["hidden"] == (0 if choice == "drop" else 1)
    assert ("left out (data.reasoning: drop)" in counts["message"]) == (choice == "drop")
    assert ("show it untrained" in counts["message"]) == (choice == "keep")


@pytest.mark.parametrize("choice", ["train", "keep", "drop"])
def test_pairs_follow_the_choice(tmp_path, base, choice):
    rows = preference_rows()
    for side in ("chosen", "rejected"):
        for row in rows:
            row[side][0]["reasoning_content"] = SECOND
    folder, report = make(tmp_path, base, with_choice(experiment("dpo"), choice), rows, known_rows())
    assert failures(report) == [] and report["reasoning"]["turns"] == 48
    tokenizer = load_tokenizer(base)
    for pair in read_split(folder, "train"):
        for ids, labels in (("input_ids", "labels"), ("rejected_ids", "rejected_labels")):
            shown = tokenizer.decode(pair[ids])
            learned = tokenizer.decode([label for label in pair[labels] if label >= 0])
            assert (SECOND in shown, SECOND in learned) == (choice != "drop", choice == "train")


def test_scoring_leaves_out_what_training_leaves_out(tmp_path, base):
    dropping = make_training_data(tmp_path, base, [ROW, *support_rows()], with_choice(settings(), "drop"))
    texts, _ = texts_of(dropping, base, ROW["id"])
    tokenizer, items = load_tokenizer(base), make_items([ROW])
    scored = fitting_items(tokenizer, items, Prompt(drops_reasoning=True), None)
    assert [text.context + text.target for text in scored] == texts
    assert [text.item.reference for text in scored] == ["It is heliotrope.", "Late."]
    whole = fitting_items(tokenizer, items, Prompt(), None)
    assert SECOND in whole[-1].target and SECOND not in scored[-1].target


def test_the_choice_goes_with_the_model_and_the_default_changes_no_spec():
    assert "reasoning" not in ExperimentSettings().model_dump(mode="json")["data"]
    with pytest.raises(ValueError, match="which has no turns"):
        ExperimentSettings.model_validate({"objective": "cpt", "data": {"reasoning": "drop"}})
    config = {"technique": "lora", "quantization": None, "system_prompt": None, "reasoning": "drop"}
    assert scored_with(config, "merged") == config == without_variant(serving_of(scored_with(config, "merged")))
    with_variants = {**config, "prompting": {"variants": {"brief": {"system_prompt": "Be brief."}}}}
    serving = serving_of(scored_with(with_variants, "merged+brief"))
    assert serving["reasoning"] == "drop" and without_variant(serving) == config
    assert "reasoning" not in scored_with({key: config[key] for key in config if key != "reasoning"}, "merged")


def test_texts_without_reasoning_stay_as_they_are():
    plain = [{"role": "user", "content": "Is </think> a tag?"}, {"role": "assistant", "content": " Yes. "}]
    assert without_reasoning(plain) == plain
    assert begin_of_answer("Yes.<|im_end|>", plain[1]) == 0
    empty = {"role": "assistant", "content": "<think>\n\n</think>\n\nYes."}
    assert without_reasoning([empty]) == [{"role": "assistant", "content": "Yes."}]
