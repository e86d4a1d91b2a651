"""The best prompt, scored a second time in batches of another size: what rounding alone changes in its scores.

Padding and the order of sums depend on the batch, so that an answer may differ although model, prompt and question are
the same. Nothing else is scored twice.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.deciding_metric import AUTO, deciding_metric
from ft_pipeline.evaluation.comparison.estimates import estimate_samples, rank
from ft_pipeline.evaluation.comparison.scored_twice import DIFFERS, SECOND_SCORES
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
from ft_pipeline.evaluation.scoring.scorer import Scorer, window_of
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest

MOST_ITEMS = 100
"""Test items that are scored again: the first ones by their ids, which are hashes."""
_TEXTS = ("prompt", "reference", "answer", "question_key", "finish_reason")
"""Columns of samples.parquet that are the same, or that nothing reads."""


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
