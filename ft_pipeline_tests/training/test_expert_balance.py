"""A mixture of experts also trains on its load-balancing loss, as its own forward pass adds it."""

import pytest
import torch

from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.preferences.dpo import PreferenceTrainer, collate_pairs
from ft_pipeline.preferences.settings import DpoSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import speed_up
from ft_pipeline.training.trainer.arguments import TokenTrainingArguments
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.loss import answer_loss
from ft_pipeline.training.trainer.token_trainer import TokenTrainer
from ft_pipeline_tests.training.architectures import CONFIGS, tiny_model_of

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02}
KINDS = {
    "mixtral": {"router_aux_loss_coef": 0.02},
    "qwen3_moe": {"router_aux_loss_coef": 0.02},
    "olmoe": {**CONFIGS["llama"], **EXPERTS, "tie_word_embeddings": False, "attention_bias": False},
}


def rows_of(*lengths):
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in lengths:
        ids = torch.randint(3, 300, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [MASKED] * (length // 2) + ids[length // 2 :]})
    return rows


ROWS = rows_of(30, 9, 21, 14)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtures")
    return lambda kind: folder / kind if (folder / kind).is_dir() else tiny_model_of(kind, folder / kind, **KINDS[kind])


@pytest.fixture
def trainer_of(base, tmp_path, monkeypatch):
    """A function that makes a trainer of all weights of a tiny mixture, or of an adapter; entirely in 32 bit."""
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")

    def make(kind, technique="full", padding_free=False, factory=TokenTrainer, rows=ROWS, **keys):
        lora = {"lora": {"target_modules": keys.pop("target_modules")}} if "target_modules" in keys else {}
        model = new_model(base(kind), ExperimentSettings.model_validate({"technique": technique, **lora}), "cpu")
        if padding_free:
            speed_up(model, ExperimentSettings(training={"padding_free": True}).training, "cpu")
        arguments = TokenTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
        return factory(model, load_tokenizer(base(kind)), rows, rows, arguments, **keys)

    return make


def routers(model):
    """The gradients of the routers' weights, by name."""
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if name.endswith("gate.weight") and parameter.grad is not None
    }


def step(trainer, batches):
    """The loss of one optimizer step over `batches`, and the routers' gradients."""
    trainer.model.zero_grad()
    items = sum(trainer.count_items(batch) for batch in batches)
    losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=items) for batch in batches]
    sum(losses).backward()
    return float(sum(losses).detach()), routers(trainer.model)


def own_step(model, batches, trained):
    """The same from the model's own loss, weighted by the trained tokens of each batch."""
    model.zero_grad()
    losses = [model(**batch, output_router_logits=True).loss for batch in batches]
    total = sum(loss * count for loss, count in zip(losses, trained, strict=True)) / sum(trained)
    total.backward()
    return float(total.detach()), routers(model)


def require_equal(actual, expected):
    assert actual[0] == pytest.approx(expected[0], abs=1e-5)
    assert len(actual[1]) == len(expected[1]) == 2  # one router for each layer
    for name, gradient in expected[1].items():
        torch.testing.assert_close(actual[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_step_equals_the_models_own_loss(kind, trainer_of):
    trainer = trainer_of(kind)
    for batches in ([collate(ROWS, 0)], [collate(ROWS[:1], 0), collate(ROWS[1:], 0)]):
        expected = own_step(trainer.model, batches, [trainer.count_items(batch) for batch in batches])
        require_equal(step(trainer, batches), expected)
    plain = float(answer_loss(trainer.model, collate(ROWS, 0))[0].detach()) / trainer.count_items(collate(ROWS, 0))
    assert step(trainer, [collate(ROWS, 0)])[0] > plain + 0.01  # the balance loss is at least its factor


def test_gradient_checkpointing_does_not_change_loss_and_gradients(trainer_of):
    trainer = trainer_of("mixtral")
    expected = step(trainer, [collate(ROWS, 0)])
    trainer.model.train()
    trainer.model.gradient_checkpointing_enable()
    require_equal(step(trainer, [collate(ROWS, 0)]), expected)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_rows_end_to_end_give_the_balance_loss_of_padded_rows(kind, trainer_of):
    flat = trainer_of(kind, padding_free=True)
    require_equal(step(flat, [collate(ROWS, None)]), step(trainer_of(kind), [collate(ROWS, 0)]))


def test_held_out_losses_are_pure_cross_entropy(trainer_of):
    trainer = trainer_of("mixtral")
    with torch.no_grad():
        total, count = answer_loss(trainer.model, collate(ROWS, 0))
    assert trainer.compute_held_out_metrics()["eval_loss"] == pytest.approx(float(total) / count, abs=1e-5)


def test_an_adapter_that_affects_a_router_trains_on_the_balance_loss(trainer_of):
    trainer = trainer_of("mixtral", "lora", target_modules=["q_proj", "v_proj"])
    batch = collate(ROWS, 0)
    model_loss = trainer.model(**batch, output_router_logits=True).loss
    assert float(trainer.compute_loss(trainer.model, batch)) == pytest.approx(float(model_loss), abs=1e-5)


def test_no_balance_loss_is_added_if_no_trained_weight_affects_a_router(trainer_of):
    trainer = trainer_of("mixtral")
    trainer.model.requires_grad_(False).lm_head.requires_grad_(True)
    total, count = answer_loss(trainer.model, collate(ROWS, 0))
    assert float(trainer.compute_loss(trainer.model, collate(ROWS, 0))) == pytest.approx(float(total) / count, abs=1e-6)


def test_preference_training_adds_the_balance_loss(trainer_of):
    reference = {"preferred_reference": -1.0, "rejected_reference": -1.1}
    pairs = [
        {**row, "rejected_ids": rejected["input_ids"], "rejected_labels": rejected["labels"], **reference}
        for row, rejected in zip(ROWS[:2], ROWS[2:], strict=True)
    ]
    trainer = trainer_of("mixtral", factory=PreferenceTrainer, rows=pairs, dpo=DpoSettings())
    batch = collate_pairs(pairs, 0)
    with_balance = float(trainer.compute_loss(trainer.model, batch))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    balance = float(trainer.model(**inputs, output_router_logits=True).aux_loss)
    trainer.model.router_aux_loss_coef = 0.0
    assert with_balance - float(trainer.compute_loss(trainer.model, batch)) == pytest.approx(0.02 * balance, abs=1e-5)


def test_training_does_not_change_the_router_settings_of_the_config(base, trainer_of):
    """With router logits turned on in its saved config, a model cannot generate."""
    trainer = trainer_of("qwen3_moe")
    step(trainer, [collate(ROWS, 0)])
    before = load_model(base("qwen3_moe"), "cpu").config
    for key in ("output_router_logits", "router_aux_loss_coef"):
        assert getattr(trainer.model.config, key) == getattr(before, key), key
