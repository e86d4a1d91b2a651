"""The embedded model as a teacher in a worker. test_distillation_page.py has it behind `transformers serve`."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation import teacher
from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline_tests.distillation.material import Recorder, teacher_job, write_conversations, write_unlabelled

pytestmark = [pytest.mark.slow, pytest.mark.long]

PROMPT = "You are a support agent of an online shop. Answer in one short sentence."


def test_the_embedded_model_answers_in_a_worker(tmp_path: Path) -> None:
    """Answers are whole words, and at least one ends before the token limit."""
    embedded = tmp_path / "smollm2"
    embedded.mkdir()
    base_model.run(Job("base_model", {"model": "embedded"}, {}, embedded, tmp_path, "cpu", Recorder()))
    inputs = {
        "unlabelled": write_unlabelled(tmp_path / "unlabelled", ["Where is my parcel?", "Do you sell garden swings?"]),
        "conversations": write_conversations(tmp_path / "conversations"),
        "base_model": embedded,
    }
    job = teacher_job(tmp_path, inputs, system_prompt=PROMPT, few_shot=2, max_new_tokens=64)
    teacher.run(job)
    rows = pq.read_table(job.out / "answers.parquet").to_pylist()
    assert all(len(row["answer"].split()) >= 3 and "<|" not in row["answer"] for row in rows)
    assert "stop" in {row["finish_reason"] for row in rows}
