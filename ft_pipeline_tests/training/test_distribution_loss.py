"""The distillation loss: equal to dense computations, with exact gradients, and it can be driven to zero."""

import itertools

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from ft_pipeline.models.attention import use_end_to_end_attention
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.training.tokens.chat_tokens import encode, render_conversation
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.distribution_loss import (
    Divergence,
    TeacherCriterion,
    TopTokens,
    distribution_losses,
    top_tokens,
)
from ft_pipeline.training.trainer.loss import answer_states, compute_logits, criterion_losses
from ft_pipeline_tests.tiny import tiny_model
from ft_pipeline_tests.training.subject import PAIRS
from ft_pipeline_tests.training.test_loss import HEADS, head_of

DIVERGENCES = [Divergence("forward_kl"), Divergence("reverse_kl"), Divergence("jsd", 0.5), Divergence("jsd", 0.1)]


def dense(name, beta, teacher, student):
    """The divergence of all log probabilities, by torch's own KL."""

    def kl(first, second):
        return functional.kl_div(second, first, reduction="none", log_target=True).sum(1)

    if name != "jsd":
        return kl(teacher, student) if name == "forward_kl" else kl(student, teacher)
    mixture = (beta * teacher.exp() + (1 - beta) * student.exp()).log()
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def grouped(log_probabilities, ids):
    """The log probabilities of the outcomes: each of `ids`, and all other tokens together."""
    rest = 1 - log_probabilities.exp().gather(1, ids).sum(1, keepdim=True)
    return torch.cat([log_probabilities.gather(1, ids), rest.log()], 1)


def top_of(log_probabilities, k):
    top, ids = log_probabilities.topk(k, 1)
    return TopTokens(ids, top, 1 - top.exp().sum(1))


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: f"{divergence.name} {divergence.beta}")
@pytest.mark.parametrize("k", [5, 512])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_losses_and_gradients_equal_those_of_a_dense_computation(name, learns, k, divergence):
    model = head_of(name.split(",")[0], **HEADS[name])
    head = model.get_output_embeddings().requires_grad_(learns)
    states, weights = torch.randn(150, 64), torch.rand(150)
    teacher = torch.log_softmax(3 * torch.randn(150, 512), 1)
    top = top_of(teacher, k)
    results = []
    for ours in (True, False):
        leaf = states.clone().requires_grad_()
        model.zero_grad()
        if ours:
            losses = criterion_losses(model, leaf, TeacherCriterion(top, divergence))
        else:
            student = torch.log_softmax(compute_logits(model, leaf), 1)
            pair = (teacher, student) if k == 512 else (grouped(teacher, top.ids), grouped(student, top.ids))
            losses = dense(divergence.name, divergence.beta, *pair)
        (losses * weights).sum().backward()
        grads = [parameter.grad.clone() for parameter in head.parameters() if learns]
        results.append((losses.detach(), leaf.grad, *grads))
    for computed, expected in zip(*results, strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: f"{divergence.name} {divergence.beta}")
def test_few_tokens_with_the_rest_never_give_more_than_all_tokens(divergence):
    teacher, student = (torch.log_softmax(2 * torch.randn(40, 100), 1) for _ in range(2))
    values = [
        TeacherCriterion(top_of(teacher, k), divergence).losses(student, slice(0, 40)) for k in (1, 4, 16, 64, 100)
    ]
    for fewer, more in itertools.pairwise(values):
        assert (fewer <= more + 1e-5).all()
    assert (values[0] >= -1e-6).all()


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: f"{divergence.name} {divergence.beta}")
def test_a_certain_teacher_gives_finite_losses_and_gradients(divergence):
    """The rest has the probability 0 in 32 bit."""
    teacher = torch.log_softmax(torch.tensor([[200.0, 0.0, 0.0, 0.0]]), 1)
    criterion = TeacherCriterion(TopTokens(*top_parts(teacher, 2)), divergence)
    student = torch.log_softmax(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), 1)
    assert torch.isfinite(criterion.losses(student, slice(0, 1))).all()
    assert torch.isfinite(criterion.gradient(student.clone(), slice(0, 1))).all()


def top_parts(log_probabilities, k):
    top = top_of(log_probabilities, k)
    return top.ids, top.log_probabilities, top.rest


@pytest.fixture(scope="module")
def rows(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in PAIRS
    ]
    texts = [text for messages in turns for text in render_conversation(tokenizer, messages)]
    return [{"input_ids": row.input_ids, "labels": row.labels} for row in encode(tokenizer, texts)]


@pytest.mark.parametrize("padding", [0, None])
def test_the_teachers_distributions_are_those_of_its_own_forward_pass(tiny_base, rows, padding):
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    batch = collate(rows, 0)
    states, _ = answer_states(model, batch)
    expected = torch.log_softmax(compute_logits(model, states), 1)
    if padding is None:
        assert use_end_to_end_attention(model) is None
    with torch.no_grad():
        top = top_tokens(compute_logits(model, answer_states(model, collate(rows, padding))[0]), 7)
    torch.testing.assert_close(top.log_probabilities, expected.topk(7, 1).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(top.rest, 1 - expected.topk(7, 1).values.exp().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "divergence",
    [DIVERGENCES[0], *(pytest.param(other, marks=pytest.mark.long) for other in DIVERGENCES[1:3])],
    ids=lambda divergence: divergence.name,
)
def test_a_student_reaches_its_teacher(tmp_path, rows, divergence):
    """A student with other random weights ends at the teacher's distributions, of which it saw eight tokens each."""
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(
            tiny_model(tmp_path / str(seed), seed=seed, initializer_range=0.1), dtype=torch.float32
        )
        for seed in (1, 2)
    )
    batch = collate(rows, 0)
    with torch.no_grad():
        top = top_tokens(compute_logits(teacher, answer_states(teacher, batch)[0]), 8)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    values = []
    for _ in range(50):
        loss = distribution_losses(student, batch, top, divergence).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.1 * values[0]
