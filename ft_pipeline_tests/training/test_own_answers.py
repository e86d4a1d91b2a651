"""On-policy distillation: the student answers, its teacher reads the answers, and training brings the two together."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from ft_pipeline.errors import UserError
from ft_pipeline.job import Rank
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.objectives.distill import DistributionTrainer
from ft_pipeline.training.objectives.own_answers import (
    OwnAnswers,
    Teacher,
    distinct_prompts,
    is_on_policy,
)
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline.training.trainer.token_trainer import TrainerSetup
from ft_pipeline_tests.tiny import tiny_model
from ft_pipeline_tests.training.subject import job, make_training_data, settings, support_rows
from ft_pipeline_tests.training.test_distill import ask, make, unlabelled_rows

PROMPT = {"system_prompt": "You are the shop.", "few_shot": 2}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50_000,
}


def experiment(technique="lora", training=None, **distill):
    training = {
        "max_steps": 8,
        "eval_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        **(training or {}),
    }
    distill = {"variant": "few_shot", "max_new_tokens": 24, "top_k": 16, "temperature": 0.7, "on_policy": 1} | distill
    return ExperimentSettings.model_validate(
        {"objective": "distill", "technique": technique, "distill": distill, "training": training}
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_base):
    """A tiny model that has learned to answer, so that its answers end."""
    folder = tmp_path_factory.mktemp("base")
    wanted = settings("full", num_train_epochs=20, eval_steps=1000, early_stopping_patience=0)
    data = make_training_data(folder, tiny_base, support_rows(2), wanted)
    work = job("adapter", folder / "adapter", wanted, {"training_data": data, "base_model": tiny_base})
    adapter.run(work)
    return work.out


@pytest.fixture(scope="module")
def data(tmp_path_factory, base):
    """Training data of the base model under a prompt."""
    folder, wanted = tmp_path_factory.mktemp("own"), experiment()
    asked, _ = ask(folder, base, base, wanted, unlabelled_rows(48), variant=PROMPT)
    return make(folder, asked, base, wanted)[0]


@pytest.fixture
def train(tmp_path, data, base):
    """A function that trains one experiment, and returns its job and summary."""

    def run(wanted, name="run", report=None, **inputs):
        work = job("adapter", tmp_path / name, wanted, {"training_data": data, "base_model": base, **inputs}, report)
        return work, adapter.run(work)

    return run


def logged(work):
    return [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_the_share_of_steps_is_exact_and_evenly_spread(share):
    steps = [is_on_policy(step, share) for step in range(100)]
    assert sum(steps) == pytest.approx(100 * share, abs=1)
    tens = [sum(steps[begin : begin + 10]) for begin in range(0, 100, 10)]
    assert max(tens) - min(tens) <= 1


def test_the_student_comes_nearer_to_its_teacher_on_its_own_answers(train):
    """The teacher is the same model under a prompt that the student does not see."""
    work, summary = train(experiment(training={"learning_rate": 2e-2, "max_steps": 12}))
    assert summary["best_eval_own_answers"] < 0.9 * summary["first_eval_own_answers"]
    assert summary["best_eval_loss"] < summary["first_eval_loss"]
    steps = [entry for entry in logged(work) if "loss" in entry]
    assert steps and all(entry["loss"] >= 0 and entry["tokens_per_second"] > 0 for entry in steps)


@pytest.mark.long
@pytest.mark.parametrize("technique", ["full", "qlora"])
def test_a_student_of_another_technique_comes_nearer_to_a_teacher_of_its_own(technique, train):
    _, summary = train(experiment(technique, training={"learning_rate": 3e-3}))
    assert summary["best_eval_own_answers"] < 0.9 * summary["first_eval_own_answers"]


@pytest.mark.parametrize("teacher_is_loaded", [False, True])
def test_the_teacher_does_not_change_with_the_student(teacher_is_loaded, base):
    student, texts, answers = new_model(base, experiment(), "cpu"), ["Where is my order?", "Hello"], [[5, 6, 7], [8]]
    teacher = Teacher(student, base, base if teacher_is_loaded else None)
    before = teacher.read(texts, answers, 4, 2)
    logits = student(input_ids=torch.tensor([[5, 6, 7]])).logits
    with torch.no_grad():
        for weights in (weights for weights in student.parameters() if weights.requires_grad):
            weights.add_(0.1)
    assert (student(input_ids=torch.tensor([[5, 6, 7]])).logits - logits).abs().max() > 0.1
    assert str(teacher.read(texts, answers, 4, 2)) == str(before)


def own_rows(folder, base, teacher, wanted, technique="lora"):
    """The rows of a new student's answers to the validation prompts."""
    model, tokenizer = new_model(base, experiment(technique), "cpu"), load_tokenizer(base)
    prompts = distinct_prompts(read_split(folder, "validation"))
    answers = OwnAnswers(model, tokenizer, Teacher(model, base, teacher), wanted.distill, 4)
    return prompts, answers.rows(prompts, 5), answers


@pytest.mark.parametrize("own_prompt", [True, False])
def test_the_teacher_reads_the_students_answer_after_its_own_prompt(own_prompt, tmp_path, data, base):
    teacher = None if own_prompt else tiny_model(tmp_path / "larger", seed=3, initializer_range=0.2)
    prompts, rows, answers = own_rows(data, base, teacher, experiment())
    tokenizer, model = load_tokenizer(base), load_model(teacher or base, "cpu")
    for prompt, row in zip(prompts, rows, strict=True):
        answer = [label for label in row["labels"] if label != MASKED]
        assert row["input_ids"] == prompt.ids + answer and 1 <= len(answer) <= 24
        assert "You are the shop." in prompt.teacher_prompt
        assert "You are the shop." not in tokenizer.decode(row["input_ids"])
        context = tokenizer(prompt.teacher_prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
        expected = torch.log_softmax(logits.float(), 1).topk(16, 1).values
        stored = torch.tensor(row["top_log_probabilities"]).reshape(-1, 16)
        torch.testing.assert_close(stored, expected, rtol=0.05, atol=0.05)
    again = answers.rows(prompts, 5)
    assert [row["input_ids"] for row in again] == [row["input_ids"] for row in rows]
    assert [row["input_ids"] for row in answers.rows(prompts, 6)] != [row["input_ids"] for row in rows]


@pytest.mark.long
def test_steps_on_the_teachers_answers_stay_as_they_are(train):
    """With a share of 0.5, the first step is that of a training without own answers."""
    training = {"max_steps": 2, "eval_steps": 2, "learning_rate": 1e-6}
    losses = [
        [
            entry["loss"]
            for entry in logged(train(experiment(on_policy=share, training=training), str(share))[0])
            if "loss" in entry
        ]
        for share in (0, 0.5, 1)
    ]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1][1] == pytest.approx(losses[2][1], rel=1e-2) and losses[1][1] != losses[0][1]


def test_several_processes_are_refused(data, base):
    rows = read_split(data, "validation")
    setup = TrainerSetup(experiment(), None, None, rows, rows, None, Ranks(Rank(count=2)))
    with pytest.raises(UserError, match="on_policy trains in one process"):
        DistributionTrainer.for_experiment(setup, base=base)


def test_a_prompt_without_room_for_an_answer_is_refused(data, base):
    rows, model = read_split(data, "train"), load_model(base, "cpu")
    for wanted, expected in (
        (
            experiment(max_new_tokens=500),
            r"with distill\.max_new_tokens: 500 is more than the context of 512\. Lower max",
        ),
        (
            experiment(max_new_tokens=190, training={"max_length": 200}),
            r"more than training\.max_length: 200\. Raise it",
        ),
    ):
        with pytest.raises(UserError, match=expected):
            DistributionTrainer.for_experiment(TrainerSetup(wanted, model, None, rows, rows, None), base=base)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"technique": "prompt_tuning"}, "'prompt_tuning' does not learn from its own answers"),
        ({"gpu": {"count": 2}}, "distill.on_policy trains on one GPU, not on 2"),
        ({"distill": {"variant": "a", "on_policy": 1.5}}, "less than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        ExperimentSettings.model_validate(
            {"objective": "distill", "technique": "lora", "distill": {"variant": "a", "on_policy": 0.5}, **changes}
        )


def test_the_estimate_counts_a_teacher_that_is_another_model():
    larger = CONFIG | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}
    own = estimate_experiment(experiment(), CONFIG, 512, None)
    other = estimate_experiment(experiment(teacher="larger"), CONFIG, 512, None, teacher=larger)
    assert "teacher" not in own["bytes"]
    assert other["bytes"]["teacher"] == pytest.approx(2 * (2 * 50_000 * 256 + 8 * 589_824), rel=0.001)
    full = estimate_experiment(experiment("full"), CONFIG, 512, None)
    assert full["bytes"]["teacher"] == pytest.approx(own["bytes"]["weights"], rel=0.05)
    offline = estimate_experiment(experiment(on_policy=0, teacher="larger"), CONFIG, 512, None, teacher=larger)
    assert "teacher" not in offline["bytes"]


def test_the_teachers_prompt_is_kept_as_text(data):
    """So that an erased example can be removed from it."""
    table = pq.read_table(data / "train.parquet")
    assert all(text.count("<|im_start|>assistant") == 3 for text in table["teacher_prompt"].to_pylist())
