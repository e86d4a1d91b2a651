"""grpo: its rows, its loss against plain computations, and trainings of a tiny model on rewards."""

import json
import re
from statistics import fmean

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from ft_pipeline.errors import UserError
from ft_pipeline.models import attention
from ft_pipeline.models.attention import padded_attention
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.rewards import group_loss
from ft_pipeline.rewards.client import Reward
from ft_pipeline.rewards.config import reward_config
from ft_pipeline.rewards.grpo import GroupTrainer
from ft_pipeline.rewards.rollouts import Prompt, Rollout, Rollouts
from ft_pipeline.rewards.settings import GrpoSettings
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline.settings.experiment import ExperimentData, ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.objectives.drawn_answers import step_seed
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import speed_up
from ft_pipeline.training.trainer.arguments import training_arguments
from ft_pipeline.training.trainer.batches import count_tokens
from ft_pipeline_tests.training.subject import conversation, job, make_training_data, support_rows

CHECKS = """
def letters(answer):
    return sum(letter in "etaoin " for letter in answer) / max(1, len(answer))


def constant(answer):
    return 0.5
"""
FAST = {"max_steps": 12, "per_device_train_batch_size": 2, "eval_steps": 6, "learning_rate": 2e-2}


def experiment(technique="lora", rewards=("letters",), training=None, **grpo):
    return ExperimentSettings.model_validate(
        {
            "objective": "grpo",
            "technique": technique,
            "training": {**FAST, **(training or {})},
            "grpo": {"rewards": dict.fromkeys(rewards, 1), "max_new_tokens": 8, "num_generations": 6, **grpo},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), experiment())


@pytest.fixture
def train(tmp_path, data, tiny_base):
    """A function that trains one experiment, and returns its job and summary."""

    def run(settings, name="run", report=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "checks.py").write_text(CHECKS)
        functions = {name: {"function": f"checks.{name}"} for name in ("letters", "constant")}
        evaluation = EvaluationSettings.model_validate({"metrics": functions})
        work = job("adapter", folder, settings, {"training_data": data, "base_model": tiny_base}, report)
        work.config["rewards"] = reward_config(folder, evaluation, settings.grpo.rewards)
        return work, adapter.run(work)

    return run


def logged(work):
    return [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_has_the_prompt_and_the_conversation_that_rewards_compare_with(data, tiny_base):
    rows = read_split(data, "train")
    tokenizer = load_tokenizer(tiny_base)
    assert len(rows) == 24 and {row["source"] for row in rows} == {"prompt"}
    for row in rows:
        turns = json.loads(row["conversation"])["messages"]
        prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == MASKED]
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
        assert turns[0]["content"] in tokenizer.decode(prompt)
        assert turns[-1]["content"] in tokenizer.decode(row["input_ids"][len(prompt) :])


def test_each_answer_of_a_conversation_is_a_prompt(tmp_path, tiny_base):
    two_turns = conversation(77, [("Hello?", "Hi."), ("Bye?", "Bye.")], "train")
    folder = make_training_data(tmp_path, tiny_base, [*support_rows(1), two_turns], experiment())
    rows = [row for row in read_split(folder, "train") if row["id"] == two_turns["id"]]
    assert [len(json.loads(row["conversation"])["messages"]) for row in rows] == [2, 4]


def test_reasoning_that_is_dropped_is_in_no_prompt_and_no_reference(tmp_path, tiny_base):
    turns = [("Hello?", "<think>A greeting.</think>Hi."), ("Bye?", "<think>They leave.</think>Bye.")]
    rows = [*support_rows(1), conversation(77, turns, "train")]
    settings = experiment().model_copy(update={"data": ExperimentData(reasoning="drop")})
    found = [
        row
        for row in read_split(make_training_data(tmp_path, tiny_base, rows, settings), "train")
        if row["id"] == rows[-1]["id"]
    ]
    contents = [[turn["content"] for turn in json.loads(row["conversation"])["messages"]] for row in found]
    assert contents == [["Hello?", "Hi."], ["Hello?", "Hi.", "Bye?", "Bye."]]
    assert all("greeting" not in load_tokenizer(tiny_base).decode(row["input_ids"]) for row in found)


# --- answers ----------------------------------------------------------------------------------------------------------


class Lengths:
    """Rewards that are the lengths of answers."""

    def rewards(self, answers):
        return [Reward(float(len(answer.text)), {}) for answer in answers]


@pytest.fixture(scope="module")
def drawing(tiny_base):
    """A function that draws answers from a model of which the generation config is given."""
    tokenizer = load_tokenizer(tiny_base)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)

    def of(**generation_config):
        model.generation_config = GenerationConfig(**generation_config)
        return Rollouts(model, tokenizer, Lengths(), max_new_tokens=12)

    return of


PROMPTS = [
    Prompt(ids, {"messages": [{"role": "user", "content": ""}], "tools": None}) for ids in ([5, 6, 7], [9], [8, 4])
]


def tokens_of(groups):
    return [[rollout.ids for rollout in group] for group in groups]


def test_answers_depend_on_seed_and_prompt_and_not_on_the_batch_or_the_other_prompts(drawing):
    drawn = tokens_of(drawing().draw(PROMPTS, 4, batch_size=12, seed=1, temperature=1.0))
    assert [len(group) for group in drawn] == [4, 4, 4]
    assert len({tuple(ids) for group in drawn for ids in group}) == 12
    single = drawing().draw(PROMPTS[::-1], 4, batch_size=4, seed=1, temperature=1.0)
    assert tokens_of(single)[::-1] == drawn
    assert tokens_of(drawing().draw(PROMPTS[1:2], 4, batch_size=4, seed=1, temperature=1.0)) == drawn[1:2]
    assert tokens_of(drawing().draw(PROMPTS, 4, batch_size=12, seed=2, temperature=1.0)) != drawn
    assert drawing().draw([], 4, batch_size=12, seed=1, temperature=1.0) == []


def test_answers_are_drawn_from_the_models_own_probabilities_without_its_penalty(drawing):
    plain, penalized = drawing(), {"repetition_penalty": 5.0}
    drawn = tokens_of(plain.draw(PROMPTS, 3, batch_size=9, seed=1, temperature=1.0))
    greedy = [rollout.ids for rollout in plain.greedy(PROMPTS, batch_size=9)]
    with_penalty = drawing(**penalized)
    assert tokens_of(with_penalty.draw(PROMPTS, 3, batch_size=9, seed=1, temperature=1.0)) == drawn
    assert with_penalty._model.generation_config.repetition_penalty == 5.0
    assert [rollout.ids for rollout in with_penalty.greedy(PROMPTS, batch_size=9)] == greedy


# --- loss -------------------------------------------------------------------------------------------------------------


def test_advantages_are_the_standardized_rewards_of_each_group():
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.3, 0.3, 0.3, 0.3], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    scaled = group_loss.advantages(rewards, "group")
    assert group_loss.has_signal(rewards).tolist() == [True, False, True]
    assert scaled[0].tolist() == pytest.approx([-0.866, 0.866, 0.866, -0.866], abs=1e-3)
    assert scaled[1].tolist() == [0.0] * 4
    assert group_loss.advantages(rewards, "none")[2].tolist() == [1.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize(
    ("loss_type", "weights", "items"),
    [
        ("dapo", [1.0, 1.0], 10),
        ("grpo", [1 / 2, 1 / 8], 2),
        ("dr_grpo", [1 / 16, 1 / 16], 2),
    ],
)
def test_the_loss_is_divided_as_stated(loss_type, weights, items):
    settings = GrpoSettings(loss_type=loss_type, max_new_tokens=16)
    assert [group_loss.token_weight(settings, tokens) for tokens in (2, 8)] == weights
    assert group_loss.count_items(settings, [2, 8]) == items
    assert group_loss.count_items(settings, []) == 0


def test_the_gradient_of_the_objective_is_the_policy_gradient_with_the_kl():
    policy = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    start, advantage = torch.tensor([-1.2, -1.0, -0.5]), torch.tensor([1.0, -2.0, 0.0])
    kl = group_loss.kl_to_start(policy, start)
    group_loss.token_objective(policy, advantage, kl, beta=0.1).sum().backward()
    expected = -advantage + 0.1 * (1 - torch.exp(start - policy.detach()))
    torch.testing.assert_close(policy.grad, expected)
    assert (kl >= 0).all() and float(kl[2].detach()) == 0.0


def test_the_estimated_kl_is_unbiased():
    """Simulated: the mean over draws of a policy is its KL to the start."""
    torch.manual_seed(0)
    policy, start = torch.randn(50).log_softmax(0), torch.randn(50).log_softmax(0)
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True)
    exact = float((policy.exp() * (policy - start)).sum())
    assert float(group_loss.kl_to_start(policy[drawn], start[drawn]).mean()) == pytest.approx(exact, rel=0.02)


@pytest.fixture
def trainer_of(tiny_base, tmp_path, monkeypatch):
    """A function that makes a trainer of LoRA matrices in 32 bit, and changes them after the start."""
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")

    def make(padding_free=False, before=lambda model: None, **grpo):
        settings = experiment(training={"padding_free": padding_free}, **grpo)
        model = new_model(tiny_base, settings, "cpu")
        speed_up(model, settings.training, "cpu")
        arguments = training_arguments(settings.training, tmp_path, "cpu", torch.float32)
        rows = [{"input_ids": [1, 2, 3], "labels": [MASKED, MASKED, 3]}, {"input_ids": [1] * 9, "labels": [1] * 9}]
        tokenizer = load_tokenizer(tiny_base)
        trainer = GroupTrainer(model, tokenizer, rows, rows, arguments, grpo=settings.grpo, rewards=None)
        before(model)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
        return trainer

    return make


def answer(prompt, ids, is_cut_off=False):
    return Rollout(Prompt(prompt, {}), ids, is_cut_off, Reward(0.0, {}))


ANSWERS = [
    (answer([5, 6, 7], [8, 9]), 0.5),
    (answer([5, 6, 7], [9]), -0.5),
    (answer([5, 6, 7], [4, 4, 4, 9]), 2.0),
    (answer([5, 6], [10, 11, 12], is_cut_off=True), -1.0),
    (answer([5], [7, 9]), 1.0),
]
"""Answers with their advantages."""


@torch.no_grad()
def plain_log_probabilities(model, temperature):
    """Those of the tokens of each of ANSWERS, from the logits of the model."""
    found = []
    with padded_attention(model):
        for rollout, _ in ANSWERS:
            ids = torch.tensor([[*rollout.prompt.ids, *rollout.ids]])
            logits = model(input_ids=ids).logits[0, len(rollout.prompt.ids) - 1 : -1].float() / temperature
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(rollout.ids)[:, None])[:, 0])
    return found


@pytest.mark.parametrize("padding_free", [False, True])
def test_the_loss_of_a_batch_equals_the_formula_on_plain_logits(padding_free, trainer_of):
    starts = []
    trainer = trainer_of(
        padding_free,
        lambda model: starts.extend(plain_log_probabilities(model, 0.7)),
        temperature=0.7,
        beta=0.1,
        loss_type="grpo",
    )
    total, tokens = trainer.summed_loss(trainer.model, trainer._batch(ANSWERS, torch.device("cpu")))
    policies = plain_log_probabilities(trainer.model, 0.7)
    expected = sum(
        float((0.1 * ((start - policy).exp() - (start - policy) - 1) - advantage).mean())
        for policy, start, (_, advantage) in zip(policies, starts, ANSWERS, strict=True)
    )
    assert tokens == 12 and float(total.detach()) == pytest.approx(expected, rel=1e-4)
    assert max(float((policy - start).abs().max()) for policy, start in zip(policies, starts, strict=True)) > 1e-3


@pytest.mark.parametrize("short_row_tokens", [512, 3])
def test_a_prompt_is_computed_once_for_its_answers_with_the_gradients_of_separate_rows(
    short_row_tokens, trainer_of, monkeypatch
):
    monkeypatch.setattr(attention, "_SHORT_ROW_TOKENS", short_row_tokens)
    found = []
    for padding_free, tokens in ((True, 2 + 3 + 2 + 5 + 1 + 4 + 0 + 3), (False, 5 + 4 + 7 + 5 + 3)):
        trainer = trainer_of(padding_free, beta=0.1)
        batch = trainer._batch(ANSWERS, torch.device("cpu"))
        assert count_tokens(batch) == tokens
        trainer.summed_loss(trainer.model, batch)[0].backward()
        found.append({name: weight.grad for name, weight in trainer.model.named_parameters() if weight.requires_grad})
    assert max(float(gradient.abs().max()) for gradient in found[0].values()) > 1e-2
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_answers_without_a_gradient_are_left_out_of_a_batch(trainer_of):
    masked = trainer_of(mask_truncated_completions=True)._batch(ANSWERS, torch.device("cpu"))
    assert masked["weights"].tolist() == [1.0] * 9
    trainer = trainer_of(beta=0)
    assert len(trainer._batch(ANSWERS, torch.device("cpu"))["weights"]) == 12
    no_signal = trainer._batch([(rollout, 0.0) for rollout, _ in ANSWERS], torch.device("cpu"))
    assert no_signal["weights"].tolist() == [0.0]  # a step has all of its batches
    total, _ = trainer.summed_loss(trainer.model, no_signal)
    assert float(total.detach()) == 0.0
    assert trainer._batch([], torch.device("cpu"))["weights"].tolist() == [0.0]  # a rank without prompts


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_tiny_model_learns_a_reward_and_logs_what_happened(train):
    """The share of frequent letters in an answer rises, in answers that are drawn and in those to held-out prompts."""
    training = {"max_steps": 24, "eval_steps": 8, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    work, summary = train(experiment("full", training=training, num_generations=16, beta=0.01))
    entries = logged(work)
    held_out = [entry["eval_reward"] for entry in entries if "eval_reward" in entry]
    assert held_out[-1] > held_out[0] + 0.1
    assert summary["best_eval_loss"] == pytest.approx(1 - max(held_out[1:]))
    assert summary["first_eval_reward"] == held_out[0] and summary["best_eval_reward"] == max(held_out[1:])
    assert summary["best_eval_reward/letters"] == summary["best_eval_reward"]
    by_prompt = json.loads((work.out / "held_out.json").read_text())
    assert by_prompt["items"] == [1] * 6 and by_prompt["measures"].keys() == {"eval_reward"}
    first, best = (fmean(by_prompt["measures"]["eval_reward"][when]) for when in ("first", "best"))
    assert (first, best) == pytest.approx((held_out[0], max(held_out[1:])))
    steps = [entry for entry in entries if "loss" in entry]
    assert steps[-1]["reward"] > steps[0]["reward"] + 0.1
    assert [step["rollout_seed"] for step in steps] == [step_seed(42, number) for number in range(24)]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6) and steps[-1]["kl"] > 0
    assert all(step["reward/letters"] == step["reward"] and 1 <= step["answer_tokens"] <= 8 for step in steps)


def test_groups_with_equal_rewards_change_no_weights(train):
    work, _ = train(experiment(rewards=["constant"], beta=0, training={"max_steps": 2, "eval_steps": 2}))
    steps = [entry for entry in logged(work) if "loss" in entry]
    assert {step["groups_without_signal"] for step in steps} == {1.0} and {step["loss"] for step in steps} == {0.0}
    trained = load_file(work.out / "adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in trained.items() if "lora_B" in name)


def test_a_prompt_and_an_answer_that_are_too_long_together_raise_a_clear_error(train):
    with pytest.raises(UserError, match=r"with grpo\.max_new_tokens: 500 is more than the context of 512\. Lower max"):
        train(experiment(max_new_tokens=500))
    with pytest.raises(UserError, match=r"is more than training\.max_length: 200\. Raise it, lower max_new_tokens"):
        train(experiment(max_new_tokens=190, training={"max_length": 200}), "short")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "sft"}, "objective 'sft' has no rewards. Remove `grpo`"),
        ({"technique": "prompt_tuning"}, "objective 'grpo' does not work with technique 'prompt_tuning'"),
        ({"data": {"reasoning": "keep"}}, "Remove `data.reasoning: keep`"),
        ({"data": {"share": 0.5}}, "objective 'grpo' trains on all its rows"),
        ({"data": {"without": ["alpaca"]}}, "objective 'grpo' trains on all its rows. Remove `data.without`"),
        ({"data": {"weights": {"human": 2}}}, "trains only on the prompts of the conversations"),
        ({"grpo": {"rewards": {"letters": 0}}}, "the weight of the reward 'letters' is 0"),
    ],
)
def test_settings_that_do_not_go_together_raise_a_clear_error(changes, message):
    valid = {"objective": "grpo", "technique": "lora", "grpo": {"rewards": {"letters": 1}}}
    assert ExperimentSettings.model_validate(valid).grpo.rewards == {"letters": 1}
    with pytest.raises(ValidationError, match=re.escape(message)):
        ExperimentSettings.model_validate({**valid, **changes})
