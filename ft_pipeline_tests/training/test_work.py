"""What a step computes, from counts of rows and tokens: trainings of each objective, teachers, merges, scorings."""

from typing import Any

import pytest

from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.work import merge_work, scoring_work, teacher_work, training_work

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
AUDIT: dict[str, Any] = {
    "tokens": 12_000,
    "trained_tokens": 4_800,
    "rows": {"human/train": 100, "human/validation": 20},
}
MULTIPLIED = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 1000 * 64
TRAINED = 4 * MULTIPLIED + 6 * 2 * 64 * 100
READ = 2 * MULTIPLIED + 2 * 2 * 64 * 100
"""Operations of a token of a row of 100 tokens."""


def settings(objective: str = "sft", technique: str = "lora", more: Any = None, **training: Any) -> ExperimentSettings:
    training = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "eval_steps": 13, **training}
    keys = {"objective": objective, "technique": technique, "training": training, **(more or {})}
    return ExperimentSettings.model_validate(keys)


def test_a_training_is_its_tokens_and_its_evaluations() -> None:
    work = training_work(settings(), CONFIG, AUDIT)
    assert (work.tokens, work.steps) == (100 * 2 * 100, 26)
    assert work.operations == 20_000 * TRAINED + 3 * 20 * 100 * READ  # before the first step, and after each epoch
    full = training_work(settings(technique="full"), CONFIG, AUDIT)
    assert full.operations - work.operations == 20_000 * 2 * MULTIPLIED


def test_the_steps_that_run_are_counted() -> None:
    assert training_work(settings(max_steps=5), CONFIG, AUDIT).tokens == 5 * 8 * 100
    assert training_work(settings(), CONFIG, AUDIT, 15).tokens == 100 * 100 + 2 * 8 * 100  # stopped in the second epoch
    accumulated = training_work(settings(gradient_accumulation_steps=2), CONFIG, AUDIT)
    assert (accumulated.steps, accumulated.tokens) == (14, 20_000)


def test_only_sampled_rows_are_evaluated() -> None:
    whole, sampled = (training_work(settings(eval_rows=rows), CONFIG, AUDIT) for rows in (512, 5))
    assert whole.operations - sampled.operations == pytest.approx(3 * 15 * 100 * READ)


def test_a_pair_is_two_texts_that_the_reference_reads_once() -> None:
    audit = {"tokens": 24_000, "rows": {f"{side}/{split}": count for side in ("preferred", "rejected")
                                        for split, count in (("train", 100), ("validation", 20))}}  # fmt: skip
    work = training_work(settings("dpo"), CONFIG, audit)
    assert (work.tokens, work.steps) == (100 * 2 * 200, 26)
    assert work.operations == pytest.approx(40_000 * TRAINED + (3 * 20 + 120) * 200 * READ)


def test_rewards_are_answers_of_each_group_and_of_each_evaluation() -> None:
    grpo = {"rewards": {"chrf": 1}, "num_generations": 4, "max_new_tokens": 40}
    keys: dict[str, Any] = {"max_steps": 10, "eval_steps": 5, "per_device_train_batch_size": 2}
    work = training_work(settings("grpo", more={"grpo": grpo}, **keys), CONFIG, AUDIT)
    assert work.tokens == 10 * 2 * 4 * (60 + 40)  # a prompt has 60 tokens
    # 10 draws of a step, and 3 evaluations of 20 prompts in batches of 8
    assert work.decoding_steps == (10 + 3 * 3) * 40
    assert work.weight_bytes == 2 * (MULTIPLIED + 64 * (2 * 2 + 1))
    answers = 10 * 2 * 4
    expected = answers * 100 * (TRAINED + READ) + (answers + 3 * 20) * 100 * READ
    assert work.operations == pytest.approx(expected)
    free = training_work(settings("grpo", more={"grpo": {**grpo, "beta": 0}}, **keys), CONFIG, AUDIT)
    assert work.operations - free.operations == pytest.approx(answers * 100 * READ)


def test_a_teacher_writes_its_answers_and_reads_them() -> None:
    distill = DistillSettings(answers_per_prompt=2, max_new_tokens=40, batch_size=16)
    work = teacher_work(distill, CONFIG, 50, 60.0)
    assert work.operations == pytest.approx(2 * 100 * 100 * READ)
    assert work.decoding_steps == 7 * 40 and work.steps == 0


def test_a_merge_reads_the_validation_rows_with_each_model() -> None:
    assert merge_work(settings(), CONFIG, AUDIT).operations == pytest.approx(2 * 20 * 100 * READ)
    assert merge_work(settings(technique="qlora"), CONFIG, AUDIT).operations == pytest.approx(5 * 20 * 100 * READ)
    assert merge_work(settings(technique="full"), CONFIG, AUDIT).operations == 0


def test_each_scored_model_reads_and_answers_each_test_row() -> None:
    work = scoring_work(CONFIG, 3, 50, 100.0, 40, 16)
    assert work.operations == pytest.approx(3 * 50 * 240 * READ)
    assert work.decoding_steps == 3 * 4 * 40
