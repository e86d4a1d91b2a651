"""lm-eval on the tiny model: its results equal those of a direct computation."""

import copy
import math
import subprocess
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ft_pipeline.evaluation.items import make_items, select_test_rows
from ft_pipeline.evaluation.scoring import lm_eval_model
from ft_pipeline.evaluation.scoring.lm_eval_harness import (
    answer_task,
    loss_task,
    question_task,
    run_tasks,
    text_task,
    write_tasks,
)
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
from ft_pipeline.evaluation.scoring.prompts import Prompt, render_items, render_question
from ft_pipeline.models.chat import stop_strings
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, QUESTIONS, TEXTS
from ft_pipeline_tests.evaluation.likelihoods import direct_log_likelihood

SYSTEM = "Answer as the support of a shop."


def loaded(model: Any, tokenizer: Any, batch_size: int = 4) -> LoadedLM:
    return LoadedLM(model, tokenizer, batch_size, lambda done: None)


def documents(tokenizer: Any, prompt: Prompt) -> list[dict[str, Any]]:
    items = make_items(select_test_rows(CONVERSATIONS, None))
    rendered = render_items(tokenizer, items, prompt, name="x", window=512, max_new_tokens=8)
    return [
        {
            "item": rendered_item.item.id,
            "context": rendered_item.context,
            "target": rendered_item.target,
            "reference": rendered_item.item.reference,
        }
        for rendered_item in rendered
    ]


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_loss_equals_the_direct_computation(wide_model: Any, tokenizer: Any, tmp_path: Path, batch_size: int) -> None:
    rows = documents(tokenizer, Prompt(system_prompt=SYSTEM))
    samples = run_tasks(loaded(wide_model, tokenizer, batch_size), [loss_task(rows)], tmp_path)["reference_loss"]
    assert [sample["doc"]["item"] for sample in samples] == [row["item"] for row in rows]
    for row, sample in zip(rows, samples, strict=True):
        direct = direct_log_likelihood(wide_model, ids(tokenizer, row["context"]), ids(tokenizer, row["target"]))
        assert sample["filtered_resps"][0][0] == pytest.approx(direct, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_answers_equal_plain_generation(wide_model: Any, tokenizer: Any, tmp_path: Path, batch_size: int) -> None:
    rows = documents(tokenizer, Prompt())
    lm = loaded(wide_model, tokenizer, batch_size)
    samples = run_tasks(lm, [answer_task(rows, stop_strings(tokenizer), 8)], tmp_path)["answers"]
    for row, sample in zip(rows, samples, strict=True):
        prompt = torch.tensor([ids(tokenizer, row["context"])])
        output = wide_model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
        generation = lm.generations[row["context"]]
        assert sample["filtered_resps"] == [tokenizer.decode(output, skip_special_tokens=True).strip()]
        assert generation.prompt_tokens == prompt.shape[1]
        assert generation.answer_tokens == len(output)
        assert generation.finish_reason == ("stop" if int(output[-1]) == tokenizer.eos_token_id else "length")


@pytest.mark.parametrize("max_new_tokens", [3, 8])
def test_an_answer_that_a_likelihood_has_shown_is_not_generated_again(
    wide_model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, max_new_tokens: int
) -> None:
    monkeypatch.setattr(lm_eval_model, "TIMED_CALLS", 1)
    prompts = [row["context"] for row in documents(tokenizer, Prompt()) + documents(tokenizer, Prompt(SYSTEM))][:6]
    assert len(set(prompts)) == 6
    model = wild(wide_model)
    written = [greedy(model, ids(tokenizer, prompt), 12) for prompt in prompts]
    stops = {written[4][2]}  # the fifth answer ends here, and perhaps others
    model.generation_config.eos_token_id = list(stops)
    targets = [written[0], written[1], written[2][:2], [*written[3][:2], 5, *written[3][3:]], written[4]]
    lm = loaded(model, tokenizer)
    asked: list[str] = []
    answer_prompts = lm.answer_prompts
    monkeypatch.setattr(lm, "answer_prompts", lambda some, limit: asked.extend(some) or answer_prompts(some, limit))
    requests = [
        ((prompt, "reference"), ids(tokenizer, prompt), target)
        for prompt, target in zip(prompts, targets, strict=False)
    ]
    lm._loglikelihood_tokens(requests)
    known = lm._answer(prompts, max_new_tokens)
    # The first is timed, the third is cut short, the fourth is not what the model writes, the last has no reference.
    assert asked == [prompts[0], prompts[2], prompts[3], prompts[5]]
    assert known == loaded(model, tokenizer)._answer(prompts, max_new_tokens)
    assert known[4].finish_reason == "stop" and known[4].answer_tokens == 3
    assert lm.seconds_per_call is not None and lm.seconds_per_call > 0


def wild(model: Any) -> Any:
    """The model with large weights, so that it does not write one token forever."""
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for weights in changed.parameters():
        if weights.dim() > 1:
            weights.data.normal_(std=0.4, generator=generator)
    return changed


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The next tokens, each from a pass of its own."""
    written: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            written.append(int(model(input_ids=torch.tensor([prompt + written])).logits[0, -1].argmax()))
    return written


def test_our_rendering_equals_that_of_lm_eval(wide_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """On single-turn rows, lm-eval with apply_chat_template=True renders and scores the same texts as we do."""
    rows = [row for row in select_test_rows(CONVERSATIONS, None) if len(row["messages"]) == 2]
    items = make_items(rows)
    ours = render_items(tokenizer, items, Prompt(system_prompt=SYSTEM), name="x", window=512, max_new_tokens=8)
    unrendered = [
        {"context": row["messages"][0]["content"], "target": rendered_item.target}
        for row, rendered_item in zip(rows, ours, strict=True)
    ]
    task = loss_task(unrendered)
    write_tasks([task], tmp_path)
    lm = loaded(wide_model, tokenizer)
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[task.name],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        apply_chat_template=True,
        system_instruction=SYSTEM,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(results["samples"][task.name], key=lambda sample: sample["doc_id"])
    assert [sample["arguments"][0] for sample in samples] == [
        (rendered_item.context, rendered_item.target) for rendered_item in ours
    ]
    direct = [{"context": rendered_item.context, "target": rendered_item.target} for rendered_item in ours]
    our_samples = run_tasks(lm, [loss_task(direct)], tmp_path / "ours")[task.name]
    assert [sample["filtered_resps"][0][0] for sample in samples] == [
        sample["filtered_resps"][0][0] for sample in our_samples
    ]


def test_no_program_is_started_to_score_a_model(
    wide_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval can describe the machine, by `pip list` and others, which takes longer than a tiny model."""
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments) or 1 / 0)
    run_tasks(loaded(wide_model, tokenizer), [loss_task(documents(tokenizer, Prompt()))], tmp_path)
    assert started == []


def test_the_general_suite_equals_the_direct_computation(wide_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    questions = [
        {"context": render_question(tokenizer, row["query"]), "choices": row["choices"], "gold": row["gold"]}
        for row in QUESTIONS
    ]
    samples = run_tasks(loaded(wide_model, tokenizer), [question_task(questions), text_task(TEXTS)], tmp_path)
    for row, sample in zip(questions, samples["general_questions"], strict=True):
        context = ids(tokenizer, row["context"])
        direct = [direct_log_likelihood(wide_model, context, ids(tokenizer, f" {choice}")) for choice in row["choices"]]
        assert [total for total, _ in sample["filtered_resps"]] == pytest.approx(direct, abs=1e-3)
        per_character = [total / len(choice) for total, choice in zip(direct, row["choices"], strict=True)]
        assert sample["acc_norm"] == float(per_character.index(max(per_character)) == row["gold"])
    for row, sample in zip(TEXTS, samples["general_texts"], strict=True):
        direct = direct_log_likelihood(wide_model, [tokenizer.eos_token_id], ids(tokenizer, row["text"]))
        assert float(sample["filtered_resps"][0]) == pytest.approx(direct, abs=1e-3)


def test_plain_lm_eval_runs_the_same_task_files(wide_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """lm-eval's HFLM gives the same losses, up to the line break that it counts as part of the answer."""
    rows = documents(tokenizer, Prompt())
    our_samples = run_tasks(loaded(wide_model, tokenizer), [loss_task(rows)], tmp_path)["reference_loss"]
    plain = HFLM(pretrained=wide_model, tokenizer=tokenizer, backend="causal")
    plain_samples = run_tasks(plain, [loss_task(rows)], tmp_path / "plain")["reference_loss"]
    for row, our_sample, plain_sample in zip(rows, our_samples, plain_samples, strict=True):
        opening = ids(tokenizer, row["context"])
        line_break = direct_log_likelihood(wide_model, opening[:-1], opening[-1:])
        total = our_sample["filtered_resps"][0][0] + line_break
        assert math.isclose(plain_sample["filtered_resps"][0][0], total, abs_tol=1e-2)


def test_the_text_of_rows_is_never_read_as_a_template(wide_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    row = {"item": "a", "context": "{{ item }} {% if", "target": "[1, 2]", "reference": "[1, 2]"}
    tasks = [loss_task([row]), answer_task([row], ["<|im_end|>"], 2)]
    samples = run_tasks(loaded(wide_model, tokenizer), tasks, tmp_path)
    assert samples["reference_loss"][0]["arguments"] == [(row["context"], row["target"])]
    assert samples["answers"][0]["arguments"][0][0] == row["context"]


def test_a_second_run_in_the_same_folder_reads_its_own_rows(wide_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    lm = loaded(wide_model, tokenizer)
    for target in ("one", "two"):
        samples = run_tasks(lm, [loss_task([{"context": "a", "target": target}])], tmp_path)
        assert samples["reference_loss"][0]["doc"]["target"] == target
    config = yaml.safe_load((tmp_path / "reference_loss.yaml").read_text(encoding="utf-8"))
    assert config["dataset_path"] == "json"
