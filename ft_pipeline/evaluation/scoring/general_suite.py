"""The general suite: questions and texts that show what tuning costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.scoring.lm_eval_harness import question_task, run_tasks, text_task
from ft_pipeline.evaluation.scoring.lm_eval_model import RecordingLM
from ft_pipeline.evaluation.scoring.prompts import render_question
from ft_pipeline.evaluation.scoring.reference_tokens import byte_count


def score_general(
    lm: RecordingLM,
    tokenizer: Any,
    questions: Sequence[Mapping[str, Any]],
    texts: Sequence[Mapping[str, Any]],
    folder: Path,
) -> list[dict[str, Any]]:
    """Run the general suite. Return the records of general.parquet. folder: where lm-eval keeps its files."""
    documents = [
        {"context": render_question(tokenizer, row["query"]), "choices": row["choices"], "gold": row["gold"]}
        for row in questions
    ]
    tasks = [question_task(documents)] if documents else []
    tasks += [text_task([{"text": row["text"]} for row in texts])] if texts else []
    logged = run_tasks(lm, tasks, folder / "general") if tasks else {}
    question_pairs = zip(questions, logged.get("general_questions", []), strict=True)
    question_records = [
        {
            "item": f"question:{number}",
            "kind": "question",
            "subject": row.get("subject"),
            "correct": sample["acc_norm"] == 1.0,
        }
        for number, (row, sample) in enumerate(question_pairs, 1)
    ]
    text_pairs = zip(texts, logged.get("general_texts", []), strict=True)
    text_records = [
        {
            "item": f"text:{number}",
            "kind": "text",
            "loss_sum": -float(sample["filtered_resps"][0]),
            "tokens": len(lm.tok_encode(row["text"])),
            "bytes": byte_count(row["text"]),
        }
        for number, (row, sample) in enumerate(text_pairs, 1)
    ]
    return question_records + text_records
