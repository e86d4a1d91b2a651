"""Two ranks train every objective with every technique as one process does: the same losses at each step."""

import json

import pytest

from ft_pipeline.models.compute_setting import COMPUTE_DTYPE_VARIABLE
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.memory.rank_share import why_not_sharded
from ft_pipeline_tests.training import test_distill, test_objectives
from ft_pipeline_tests.training.rank_runs import run_ranks, summary_of
from ft_pipeline_tests.training.subject import (
    FAST,
    PAIRS,
    conversation,
    job,
    make_training_data,
    preference_rows,
    support_rows,
    text_rows,
)

OBJECTIVES = ("sft", "dpo", "cpt", "distill")
TECHNIQUES = ("lora", "qlora", "full", "prompt_tuning")
ODD = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
"""With 25 rows, the last batch of an epoch has one row, so that the second rank gets none."""
VARIANTS = {
    "sft-lora-tokens": ("sft", "lora", {"tokens_per_batch": 200, "max_length": 200}),
    "sft-lora-padded": ("sft", "lora", {"padding_free": False, "gradient_checkpointing": True}),
    "sft-qlora-8-bit": ("sft", "qlora", {"optim": "paged_adamw_8bit"}),
    "sft-full-adam8": ("sft", "full", {"optim": "adamw_8bit"}),
}
CASES = {
    **{
        f"{objective}-{technique}": (objective, technique, {})
        for objective in OBJECTIVES
        for technique in TECHNIQUES
        if technique != "prompt_tuning" or objective == "sft"
    },
    **VARIANTS,
}
"""Objective, technique and training settings of each training."""


def wanted(objective, technique, keys):
    training = {**FAST, **ODD, "num_train_epochs": 1, "eval_steps": 2, "optim": "adamw_torch", **keys}
    document = {"objective": objective, "technique": technique, "training": training}
    if objective == "distill":
        document["distill"] = {"teacher": "larger", "max_new_tokens": 64, "top_k": 16}
    return ExperimentSettings.model_validate(document)


SHARDED = [name for name, case in CASES.items() if why_not_sharded(wanted(*case)) is None]


@pytest.fixture(scope="module", autouse=True)
def _exact_products():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COMPUTE_DTYPE_VARIABLE, "float32")
        yield


@pytest.fixture(scope="module")
def data(_exact_products, tiny_base, tmp_path_factory):
    """The training data of each objective."""
    folder = tmp_path_factory.mktemp("data")
    rows = [*support_rows(), conversation(8000, [PAIRS[0]], "train")]
    plain = {name: wanted(name, "lora", {}) for name in OBJECTIVES}
    teacher = test_distill.train_teacher(folder / "teacher", tiny_base)
    asked, _ = test_distill.ask(folder / "asked", teacher, tiny_base, plain["distill"])
    return {
        "sft": make_training_data(folder / "sft", tiny_base, rows, plain["sft"]),
        "dpo": test_objectives.make(folder / "dpo", tiny_base, plain["dpo"], preference_rows())[0],
        "cpt": test_objectives.make(folder / "cpt", tiny_base, wanted("cpt", "lora", {"max_length": 64}), text_rows())[
            0
        ],
        "distill": test_distill.make(folder / "distill", asked, tiny_base, plain["distill"])[0],
    }


@pytest.fixture(scope="module")
def alone(data, tiny_base, tmp_path_factory):
    """A function that returns the job of a case, which one process has trained."""
    folder, trained = tmp_path_factory.mktemp("alone"), {}

    def train(name):
        if name not in trained:
            trained[name] = job_of(name, folder / name, data, tiny_base)
            adapter.run(trained[name])
        return trained[name]

    return train


def job_of(name, folder, data, base):
    settings = wanted(*CASES[name])
    return job("adapter", folder, settings, {"training_data": data[settings.objective], "base_model": base})


@pytest.fixture(scope="module")
def with_ddp(data, tiny_base, tmp_path_factory):
    return train_together(CASES, tmp_path_factory.mktemp("ddp"), data, tiny_base, sharded=False)


@pytest.fixture(scope="module")
def with_fsdp(data, tiny_base, tmp_path_factory):
    return train_together(SHARDED, tmp_path_factory.mktemp("fsdp"), data, tiny_base, sharded=True)


def train_together(names, folder, data, base, *, sharded):
    jobs = {name: job_of(name, folder / name, data, base) for name in names}
    run_ranks(jobs, folder, sharded=sharded)
    return folder, jobs


def logged(work, name):
    lines = map(json.loads, (work.out / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def assert_same_training(name, together, alone):
    folder, jobs = together
    for value in ("loss", "eval_loss", "grad_norm"):
        expected = logged(alone(name), value)
        assert len(expected) > 2
        assert logged(jobs[name], value) == pytest.approx(expected, rel=2e-3, abs=1e-5), value
    assert summary_of(folder, name)["processes"] == 2
    assert {path.name for path in jobs[name].out.iterdir()} == {path.name for path in alone(name).out.iterdir()}


def test_every_objective_can_be_sharded_with_all_but_a_learned_prompt():
    assert {case.split("-")[1] for case in SHARDED} == {"lora", "qlora", "full"}
    assert {case.split("-")[0] for case in SHARDED} == set(OBJECTIVES)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_with_ddp_give_the_losses_of_one(name, with_ddp, alone):
    assert_same_training(name, with_ddp, alone)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", SHARDED)
def test_two_ranks_with_sharded_weights_give_the_losses_of_one(name, with_fsdp, alone):
    assert_same_training(name, with_fsdp, alone)
