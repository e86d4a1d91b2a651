"""The training loss: equal to the model's own loss, and independent of prompts, padding and batches."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from ft_pipeline.models.attention import use_end_to_end_attention
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.training.tokens.chat_tokens import MASKED, encode, render_conversation
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.loss import answer_loss, answer_states, compute_logits, head_losses
from ft_pipeline_tests.training.subject import PAIRS


@pytest.fixture(scope="module")
def rows(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    texts = [
        rendered
        for question, answer in PAIRS
        for rendered in render_conversation(
            tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )
    ]
    return [{"input_ids": row.input_ids, "labels": row.labels} for row in encode(tokenizer, texts)]


@pytest.fixture
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)


def test_the_loss_equals_the_models_own_loss(model, rows):
    batch = collate(rows, 0)
    with torch.no_grad():
        total, count = answer_loss(model, batch)
        model_loss = model(**batch).loss
    assert count == sum(label != MASKED for row in rows for label in row["labels"])
    assert float(total) / count == pytest.approx(float(model_loss), abs=1e-5)


def test_the_loss_equals_the_models_own_in_bf16_with_a_frozen_head(tiny_base, rows):
    model = load_model(tiny_base, "cpu")
    batch = collate(rows, 0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    total, count = answer_loss(model, batch)
    own = model(**batch)
    assert float(total) / count == pytest.approx(float(own.loss), abs=rounding_of_mean(own.logits, count))


def rounding_of_mean(logits, count):
    """How far the mean losses of `count` tokens may be apart: three standard deviations, if each target's logit may
    be rounded to the number next to it. Those of other tokens average out in the sum over the vocabulary.

    Ours computes the head for the trained tokens only, and a product in bf16 may depend on its shape.
    """
    return 3 * torch.finfo(logits.dtype).eps * float(logits.abs().max()) / math.sqrt(count)


def test_a_frozen_head_gives_the_gradient_of_autograd(model, rows):
    batch = collate(rows, 0)
    states, targets = answer_states(model, batch)
    states = states.detach()
    gradients = []
    for frozen in (True, False):
        model.get_output_embeddings().weight.requires_grad_(not frozen)
        leaf = states.clone().requires_grad_()
        if frozen:
            head_losses(model, leaf, targets).sum().backward()
        else:
            torch.nn.functional.cross_entropy(compute_logits(model, leaf), targets, reduction="sum").backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


HEADS = {
    "llama": {},
    "granite, a factor": {"logits_scaling": 4.0},
    "gemma2, a soft cap": {"final_logit_softcapping": 3.0},
    "phi, a bias": {},
}


def head_of(kind, vocabulary=512, width=64, **keys):
    """A random model of `kind`. Only its head is used; weight and bias are large enough to matter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, num_key_value_heads=1, **sizes, **keys)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.get_output_embeddings().parameters():
        parameter.data.normal_(std=0.1)
    return model


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_the_gradients_of_autograd(name, learns):
    """Each token's loss has a different weight, as in preference training."""
    model = head_of(name.split(",")[0], **HEADS[name])
    head = model.get_output_embeddings().requires_grad_(learns)
    states, targets, weights = torch.randn(300, 64), torch.randint(0, 512, (300,)), torch.rand(300)
    results = []
    for ours in (True, False):
        leaf = states.clone().requires_grad_()
        model.zero_grad()
        if ours:
            losses = head_losses(model, leaf, targets)
        else:
            losses = torch.nn.functional.cross_entropy(compute_logits(model, leaf), targets, reduction="none")
        (losses * weights).sum().backward()
        grads = [parameter.grad.clone() for parameter in head.parameters() if learns]
        assert len(grads) == (0 if not learns else 2 if "bias" in name else 1)
        results.append((losses.detach(), leaf.grad, *grads))
    for computed, expected in zip(*results, strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("autocast", [True, False])
def test_a_trained_head_sums_its_gradient_in_32_bit(autocast):
    """8,192 rows are 64 slices. A 16-bit sum over them is 0.9 % off; one rounding of the result alone is 0.17 %."""
    model = head_of("llama", vocabulary=1024)
    head = model.get_output_embeddings()
    head.weight.data = head.weight.data.bfloat16()
    states, targets = torch.randn(8192, 64).bfloat16(), torch.randint(0, 1024, (8192,))
    logit_gradient = torch.softmax(states.double() @ head.weight.data.double().T, 1)
    logit_gradient[torch.arange(8192), targets] -= 1
    exact = logit_gradient.T @ states.double()
    if autocast:  # as full fine-tuning does
        head.weight.data, states = head.weight.data.float(), states.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        head_losses(model, states, targets).sum().backward()
    assert head.weight.grad.dtype == (torch.float32 if autocast else torch.bfloat16)
    assert float((head.weight.grad.double() - exact).norm() / exact.norm()) < 0.0025


def test_only_positions_that_predict_an_answer_get_a_gradient(model, rows):
    batch = collate(rows, 0)
    kept = {}

    def keep(module, arguments, output):
        output.retain_grad()
        kept["states"] = output

    hook = model.model.norm.register_forward_hook(keep)
    total, _ = answer_loss(model, batch)
    total.backward()
    hook.remove()
    per_position = kept["states"].grad.abs().sum(-1)
    predicts = torch.zeros_like(batch["labels"], dtype=torch.bool)
    predicts[:, :-1] = batch["labels"][:, 1:] != MASKED
    assert (per_position[~predicts] == 0).all()
    assert (per_position[predicts] > 0).all()


def test_padding_does_not_change_the_loss(model, rows):
    alone = sum(float(answer_loss(model, collate([row], 0))[0].detach()) for row in rows)
    together = float(answer_loss(model, collate(rows, 0))[0].detach())
    assert together == pytest.approx(alone, rel=1e-5)


def test_padding_with_the_stop_token_does_not_change_the_loss(model, rows, tiny_base):
    stop = load_tokenizer(tiny_base).eos_token_id
    with torch.no_grad():
        assert float(answer_loss(model, collate(rows, stop))[0]) == pytest.approx(
            float(answer_loss(model, collate(rows, 0))[0]), rel=1e-6
        )


def test_the_loss_applies_the_logit_cap_of_the_model(rows):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
    )
    model = Gemma2ForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    batch = collate(rows, 0)
    with torch.no_grad():
        total, count = answer_loss(model, batch)
        assert float(total) / count == pytest.approx(float(model(**batch).loss), abs=1e-5)


@pytest.mark.parametrize(("padding_free", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_the_loss_equals_that_of_trl_on_the_same_batches(tiny_base, rows, tmp_path, padding_free, dtype):
    """But for rounding. Rows end to end run in 32 bit: they round in another order."""
    tokenizer = load_tokenizer(tiny_base)
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=None)
    trl_trainer = SFTTrainer(
        load_model(tiny_base, "cpu", dtype=dtype), arguments, train_dataset=Dataset.from_list(rows)
    )
    model = load_model(tiny_base, "cpu", dtype=dtype).requires_grad_(False)
    if padding_free:
        assert use_end_to_end_attention(model) is None
    for part in (rows[:2], rows[2:5], rows):
        batch = collate(part, tokenizer.pad_token_id)
        with torch.no_grad():
            expected, output = trl_trainer.compute_loss(trl_trainer.model.eval(), dict(batch), return_outputs=True)
            total, count = answer_loss(model, collate(part, None) if padding_free else batch)
        rounding = rounding_of_mean(output.logits, count) if dtype == torch.bfloat16 else 1e-4
        assert float(total) / count == pytest.approx(float(expected), abs=rounding)
