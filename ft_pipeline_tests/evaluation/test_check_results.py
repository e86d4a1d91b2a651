"""Checks from the answers to the comparison: values, leads, the metric that decides, and what is wrong most often."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import footnotes
from ft_pipeline.decide.plots import confusion_picture
from ft_pipeline.decide.sections import field_sections
from ft_pipeline.decide.units import in_words
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.check_records import NO_LABEL_TITLE
from ft_pipeline.evaluation.comparison.check_results import results_of_scores
from ft_pipeline.evaluation.rivals.score import run as score_rivals
from ft_pipeline.release.report.checks import check_values
from ft_pipeline_tests.evaluation.conftest import JobMaker, conversation

ROWS = 60
FIELDS = {"id": "exact", "total": {"number": 0.01}, "place.city": "exact"}
ORDER = {"type": "json_fields", "fields": FIELDS, "decides": True, "version": "1"}
TOPIC = {"type": "classification", "labels": ["refund", "order", "$5"], "decides": True, "version": "1"}

Answers = Callable[[int], str]


def reference_of(number: int) -> dict[str, Any]:
    return {"id": f"LF-{number}", "total": number + 0.5, **({"place": {"city": "Bath"}} if number % 2 else {})}


class Scored:
    """Scores of models whose answers are given, for references that are given."""

    def __init__(self, make_job: JobMaker, folder: Path, references: Answers, metrics: Mapping[str, Any]) -> None:
        self.make_job, self.folder, self.metrics = make_job, folder, metrics
        self.questions = {f"Question {number}?": number for number in range(ROWS)}
        rows = [conversation("test", question, references(number)) for question, number in self.questions.items()]
        (folder / "rows").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows" / "rows.parquet")

    def score(self, name: str, answers: Answers) -> Path:
        """Return the scores of a model."""
        path = self.folder / f"{name}.jsonl"
        lines = [
            json.dumps({"query": question, "answer": answers(number)}) for question, number in self.questions.items()
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        job = self.make_job(
            "contender_scores",
            name,
            {"conversations": self.folder / "rows"},
            contender={"name": name, "answers": "x"},
            answers_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            custom_metrics=json.loads(json.dumps(self.metrics)),
        )
        job.handling["answers"] = str(path)
        score_rivals(job)
        return job.out

    def compare(self, models: Mapping[str, Answers], **config: Any) -> Comparison:
        """Return the comparison of some models, as it is read from its document."""
        inputs = {f"{name}/contender_scores": self.score(name, answers) for name, answers in models.items()}
        (self.folder / "compared").mkdir()
        decides = next((name for name, metric in self.metrics.items() if metric.get("decides")), None)
        settings = {"primary_metric": "auto", "decides": decides, **config}
        build_comparison(inputs, settings, self.folder / "compared")
        document = json.loads((self.folder / "compared" / "comparison.json").read_text(encoding="utf-8"))
        return Comparison.model_validate(document)


def test_json_answers_decide_by_their_fields(make_job: JobMaker, tmp_path: Path) -> None:
    def good(number: int) -> str:
        reference = reference_of(number)
        return json.dumps({**reference, "total": 0} if number % 6 == 0 else reference)

    def poor(number: int) -> str:
        return f"Here you are: {json.dumps({'id': f'LF-{number}', 'note': 'x'})}" if number % 3 else "I cannot say."

    scores = Scored(make_job, tmp_path, lambda number: json.dumps(reference_of(number)), {"order": ORDER})
    comparison = scores.compare({"good": good, "poor": poor})
    assert comparison.primary_metric == "order"
    assert comparison.decided_by == "The check evaluation.metrics.order decides."
    best, worst = comparison.rows
    assert (best.name, best.scores["order/all"].value) == ("good", pytest.approx(50 / 60))
    # 40 answers have one right field of 2 or 3, and a note; 20 have none
    assert worst.scores["order"].value == pytest.approx((20 * (1 / 3 + 1 / 4)) / 60)
    assert comparison.better(best, worst)
    lead = comparison.lead(best, worst)
    assert lead is not None
    said = re.fullmatch(
        r"(\d+) % of its fields are right, and (\d+) % of those of poor: a lead of (\d+) points \((\d+) to (\d+)\)",
        in_words(comparison, best, lead),
    )
    assert said is not None
    of_best, of_worst, more, low, high = map(int, said.groups())
    assert (of_best, of_worst) == (round(100 * best.scores["order"].value), round(100 * worst.scores["order"].value))
    assert low < more < high
    assert abs(of_best - of_worst - more) <= 1

    good_fields, poor_fields = comparison.field_results
    assert good_fields.worst is not None
    assert (good_fields.worst.field, good_fields.worst.wrong, good_fields.worst.answers) == ("total", 10, 60)
    by_field = {result.field: result for result in poor_fields.fields}
    assert (by_field["place.city"].answers, by_field["place.city"].missing) == (30, 30)
    assert (by_field["other fields"].extra, by_field["id"].missing) == (40, 20)
    assert footnotes(comparison) == ["good, order: wrong most often is `total` (17% of 60 answers: 10 another value)."]
    markdown = (tmp_path / "compared" / "comparison.md").read_text(encoding="utf-8")
    assert "|  | total | id | place.city | other fields |" in markdown
    [section] = field_sections(comparison.field_results)
    assert section.grid is not None and [row[0].text for row in section.grid.cells] == ["good", "poor"]


@pytest.mark.usefixtures("rendered")
def test_labels_decide_by_their_accuracy_or_by_macro_f1(make_job: JobMaker, tmp_path: Path) -> None:
    labels = ["refund"] * 40 + ["order"] * 15 + ["$5"] * 5
    models: dict[str, Answers] = {
        "always_refund": lambda number: "Refund.",
        "careful": lambda number: labels[number] if number % 3 else "I do not know",
    }
    scores = Scored(make_job, tmp_path, labels.__getitem__, {"topic": TOPIC})
    comparison = scores.compare(models, primary_metric="topic/macro_f1", labels={"topic": TOPIC["labels"]})
    careful, simple = comparison.rows
    assert (careful.name, careful.scores["topic"].value) == ("careful", simple.scores["topic"].value)
    assert simple.scores["topic/macro_f1"].value == pytest.approx(2 * 40 / (2 * 40 + 20) / 3)
    lead = comparison.lead(careful, simple)
    assert lead is not None and lead.verdict == "shown"
    matrix = next(matrix for matrix in comparison.confusions if matrix.row == "careful")
    assert (matrix.labels, matrix.answers) == (TOPIC["labels"], 60)
    assert [line[-1] for line in matrix.counts] == [14, 5, 1]
    assert matrix.worst == ("refund", NO_LABEL_TITLE, 14)
    assert matrix.describe_worst() == ["careful, topic: most often 'refund' has no label (14 of 60 answers)."]
    values = check_values(comparison, "careful")
    assert values["confusion_picture"].startswith(b"\x89PNG")
    assert values["worst"] == matrix.describe_worst()


@pytest.mark.usefixtures("rendered")
def test_the_page_of_scores_reads_the_same_results(make_job: JobMaker, tmp_path: Path) -> None:
    labels = ["refund", "order"] * 29 + ["$5"] * 2
    scores = Scored(make_job, tmp_path, labels.__getitem__, {"topic": TOPIC})
    fields, [matrix] = results_of_scores(scores.score("one", lambda number: "order"), {"topic": TOPIC["labels"]})
    assert fields == []
    assert matrix.row == "plain"
    assert matrix.counts == [[0, 29, 0, 0], [0, 29, 0, 0], [0, 2, 0, 0]]
    assert matrix.worst == ("refund", "order", 29)
    assert confusion_picture([matrix]) == confusion_picture([matrix])
    assert confusion_picture([]) is None


def test_references_are_checked_before_anything_is_asked(make_job: JobMaker, tmp_path: Path) -> None:
    scores = Scored(make_job, tmp_path, lambda number: "{}" if number else "no JSON", {"order": ORDER})
    with pytest.raises(UserError, match=r"evaluation\.metrics\.order: 1 of 60 references are no JSON objects"):
        scores.score("one", str)
