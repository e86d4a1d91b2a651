"""The worker for `prompt_baseline`: score the base model under each prompt, as baselines for tuned models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.deciding_metric import AUTO, deciding_metric
from ft_pipeline.evaluation.comparison.estimates import estimate_samples, rank
from ft_pipeline.evaluation.comparison.scored_twice import DIFFERS, SECOND_SCORES
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
from ft_pipeline.evaluation.scoring.prompt_sources import example_rows, possible_variants, read_prompts
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import Scorer, window_of
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.job import Job
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model

MOST_ITEMS = 100
"""Test items that are scored again: the first ones by their ids, which are hashes."""
_TEXTS = ("prompt", "reference", "answer", "question_key", "finish_reason")
"""Columns of samples.parquet that are the same, or that nothing reads."""


def run(job: Job) -> dict[str, Any]:
    """Score the base model (16 bit) without a prompt, with the general suite, and under each prompt variant; the best
    of them twice.

    config: evaluation (EvaluationSettings), prompting (PromptingSettings), general_questions, general_texts (rows).
    inputs: conversations, base_model, and what the prompts are taken from (prompt_sources.py). Raises UserError if the
    test split is empty or a prompt does not fit the model.
    """
    tested_models = _models_to_test(job)
    scorer = Scorer(job, tested_models)
    missing = [tested_model for tested_model in tested_models if not scorer.skip_if_scored(tested_model)]
    if missing or not is_scored_again(scorer):
        model = load_model(job.inputs["base_model"], job.device)
        speed_up_products(model, trains=False)
        scorer.progress.expect(count_requests(scorer))
        for tested_model in missing:
            scorer.score(model, tested_model)
        score_again(scorer, model, best_use(scorer, tested_models))
    write_second(scorer)
    notes = notes_on_system_turns(scorer.test_rows, tested_models)
    for note in notes:
        job.report.log(note)
    return scorer.write(tested_models) | ({"notes": notes} if notes else {})


def notes_on_system_turns(rows: Sequence[Mapping[str, Any]], tested_models: Sequence[ModelUnderTest]) -> list[str]:
    """Return a note per variant whose system prompt is not used where a conversation has a system turn of its own."""
    own = sum(row["messages"][0]["role"] == "system" for row in rows)
    return [
        f"{model.name}: its system prompt is not used in {own} of {len(rows)} test conversations, which have a system "
        "turn. Set replace_system to use it."
        for model in tested_models
        if own and model.prompt.system_prompt and not model.prompt.replace_system
    ]


def _models_to_test(job: Job) -> list[ModelUnderTest]:
    variants = possible_variants(job, job.config["prompting"]["variants"], example_rows(job.inputs))
    plain = ModelUnderTest("plain", "base", Prompt(), {"technique": None}, runs_general_suite=True)
    prompted = [
        ModelUnderTest(name, "prompt", prompt, {"technique": None, **variants[name]})
        for name, prompt in read_prompts(job, variants).items()
    ]
    return [plain, *prompted]


def best_use(scorer: Scorer, tested_models: Sequence[ModelUnderTest]) -> ModelUnderTest:
    """Return the scored model that is best by the metric that decides, unless the project names another metric."""
    samples = {model.name: scorer.result(model.name)["samples"] for model in tested_models}
    own, decides = scorer.answer_metrics.own, scorer.answer_metrics.decides
    estimates, references = estimate_samples(samples, own), [item.reference for item in scorer.items]
    metric = deciding_metric(AUTO, {"decides": decides}, estimates, references).metric
    best = rank({**METRICS, **own}[metric], metric, estimates)[0]
    return next(model for model in tested_models if model.name == best)


def count_requests(scorer: Scorer) -> int:
    """Return how many requests `score_again` makes: of each item, the likelihood of its reference and an answer."""
    return 2 * min(MOST_ITEMS, len(scorer.items))


def score_again(scorer: Scorer, model: Any, tested: ModelUnderTest) -> None:
    """Score some test items of a loaded model once more, and keep the records for `write_second`."""
    size = scorer.settings["batch_size"]
    lm = LoadedLM(model, scorer.tokenizer, size // 2 if size > 1 else 2, scorer.progress.advance)
    folder = scorer.job.work / "lm_eval" / f"{tested.name} again"
    second = scorer.score_items(lm, scorer.render(tested, window_of(model))[:MOST_ITEMS], folder)
    first = {sample["item"]: sample["answer"] for sample in scorer.result(tested.name)["samples"]}
    records = [
        {
            "name": tested.name,
            **{key: value for key, value in sample.items() if key not in _TEXTS},
            DIFFERS: sample["answer"] != first[sample["item"]],
        }
        for sample in second
    ]
    _kept(scorer).write_text(json.dumps(records), encoding="utf-8")


def is_scored_again(scorer: Scorer) -> bool:
    """Return whether an earlier start of this job has done so."""
    return _kept(scorer).is_file()


def write_second(scorer: Scorer) -> None:
    """Write the records to `job.out`."""
    records = json.loads(_kept(scorer).read_text(encoding="utf-8"))
    pq.write_table(pa.Table.from_pylist(records), scorer.job.out / SECOND_SCORES)


def _kept(scorer: Scorer) -> Path:
    return scorer.job.work / "second.json"
