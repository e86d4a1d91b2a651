"""Prompt tuning: virtual tokens train before a frozen model, and a row does not depend on the others of its batch."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from ft_pipeline.evaluation.scoring.likelihood import target_log_likelihoods
from ft_pipeline.models.chat import render
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps import merged_model
from ft_pipeline.training import adapter
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.loss import answer_loss
from ft_pipeline_tests.training.subject import FAST, PAIRS, job, make_training_data, support_rows


def experiment(steps=48, **prompt):
    training = {**FAST, "learning_rate": 0.1, "max_steps": steps, "eval_steps": 12}
    document = {"technique": "prompt_tuning", "training": training}
    return ExperimentSettings.model_validate(document | ({"prompt_tuning": prompt} if prompt else {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), experiment())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, tiny_base):
    work = job(
        "adapter", tmp_path_factory.mktemp("run"), experiment(), {"training_data": data, "base_model": tiny_base}
    )
    return work, adapter.run(work)


def loaded(base, folder, dtype=torch.float32):
    return load_model(base, "cpu", adapter=folder, dtype=dtype)


def test_only_the_virtual_tokens_learn(trained):
    work, summary = trained
    assert summary["trainable_params"] == 20 * 64
    assert summary["best_eval_loss"] < summary["first_eval_loss"] - 0.01
    (weights,) = load_file(work.out / "adapter_model.safetensors").values()
    assert weights.shape == (20, 64)


def test_our_loss_equals_that_of_peft(trained, data, tiny_base):
    model = loaded(tiny_base, trained[0].out)
    rows = read_split(data, "validation")
    with torch.no_grad():
        total, count = answer_loss(model, collate(rows, 0))
        losses, tokens = 0.0, 0
        for row in rows:  # PEFT's own forward, unpadded
            batch = collate([row], 0)
            trained_tokens = int((batch["labels"] >= 0).sum())
            losses += float(model(**batch).loss) * trained_tokens
            tokens += trained_tokens
    assert (count, float(total) / count) == (tokens, pytest.approx(losses / tokens, rel=1e-4))


def test_an_answer_does_not_depend_on_the_rest_of_its_batch(trained, tiny_base):
    model, tokenizer = loaded(tiny_base, trained[0].out), load_tokenizer(tiny_base)
    prompts = [
        render(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)
        for question, _ in (*PAIRS, ("Why? " * 30, ""), ("No", ""))
    ]
    alone = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=1)
    together = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=8)
    assert alone == together
    frozen = generate(
        load_model(tiny_base, "cpu", dtype=torch.float32), tokenizer, prompts, max_new_tokens=12, batch_size=8
    )
    assert [answer.prompt_tokens - 20 for answer in alone] == [answer.prompt_tokens for answer in frozen]


def test_greedy_answers_equal_those_of_peft(trained, tiny_base):
    model, tokenizer = loaded(tiny_base, trained[0].out), load_tokenizer(tiny_base)
    prompt = render(tokenizer, [{"role": "user", "content": PAIRS[0][0]}], add_generation_prompt=True)
    (answer,) = generate(model, tokenizer, [prompt], max_new_tokens=10, batch_size=1)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    peft_tokens = []
    with torch.no_grad():
        for _ in range(answer.answer_tokens):
            token = int(model(input_ids=ids).logits[0, -1].argmax())
            peft_tokens.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert answer.text == tokenizer.decode(peft_tokens, skip_special_tokens=True).strip()


def test_log_likelihoods_equal_those_of_peft_for_any_batch_size(trained, tiny_base):
    model = loaded(tiny_base, trained[0].out)
    pairs = [([5, 6, 7, 8, 9], [10, 11]), ([12], [13, 14, 15, 16]), ([20, 21], [22])]
    together = target_log_likelihoods(model, pairs, batch_size=8)
    alone = target_log_likelihoods(model, pairs, batch_size=1)
    for (context, target), first, second in zip(pairs, together, alone, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context + target])).logits[0]
        log_probabilities = logits[-len(target) - 1 : -1].log_softmax(-1)
        expected = float(log_probabilities.gather(1, torch.tensor(target)[:, None]).sum())
        assert first.total == pytest.approx(expected, abs=1e-3) and second.total == pytest.approx(expected, abs=1e-3)


def test_a_prompt_initialized_from_a_text_names_no_local_path(tmp_path, data, tiny_base):
    settings = experiment(
        steps=2, num_virtual_tokens=6, prompt_tuning_init="TEXT", prompt_tuning_init_text="Sorry about the delay."
    )
    work = job("adapter", tmp_path, settings, {"training_data": data, "base_model": tiny_base})
    adapter.run(work)
    text = (work.out / "adapter_config.json").read_text()
    assert str(tiny_base) not in text and json.loads(text)["num_virtual_tokens"] == 6
    assert isinstance(loaded(tiny_base, work.out), PeftModel)


def test_the_merge_of_a_tuned_prompt_writes_no_model(trained, tmp_path, data, tiny_base):
    inputs = {"training_data": data, "base_model": tiny_base, "adapter": trained[0].out}
    work = job("merged_model", tmp_path, experiment(), inputs)
    summary = merged_model.run(work)
    assert summary["mode"] == "none" and summary["checks"]["merge_equivalence"]["passed"]
    assert [path.name for path in work.out.iterdir()] == ["merge.json"]
