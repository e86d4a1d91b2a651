"""The worker for `word_model`: learn from the training rows."""

import json
from typing import Any

from ft_pipeline.evaluation.items import read_rows
from ft_pipeline.evaluation.rivals.answered_questions import NoRival, answered_questions
from ft_pipeline.evaluation.rivals.word_model import TEXTS, WordModel
from ft_pipeline.job import Job


def run(job: Job) -> dict[str, Any]:
    """Write the model, or why there is none.

    config: seed. inputs: conversations. Returns the summary: `left_out`, the reason or None, and `labels`, the number
    of labels by field.
    """
    rows = read_rows(job.inputs["conversations"])
    training, validation = (answered_questions(rows, split) for split in ("train", "validation"))
    try:
        model = WordModel.fit(training, validation, job.config["seed"])
    except NoRival as reason:
        job.report.log(f"word_model is left out: {reason}")
        (job.out / TEXTS).write_text(json.dumps({"left_out": str(reason)}), encoding="utf-8")
        return {"left_out": str(reason), "labels": {}}
    model.write(job.out)
    return {"left_out": None, "labels": {name: len(each.labels) for name, each in model.models.items()}}
