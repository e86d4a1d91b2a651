"""gguf and gguf_scores as their workers run them: llama.cpp's own converter and library, a tiny model."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.kinds import KINDS
from ft_pipeline.decide.notes import footnotes
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring import tuned_scores
from ft_pipeline.gguf import files
from ft_pipeline.gguf import scoring as gguf_scores
from ft_pipeline.job import Job
from ft_pipeline_tests.decide.rules import leads
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, RecordingReporter
from ft_pipeline_tests.gguf_files import converted_in_forks
from ft_pipeline_tests.tiny_spm import spm_model

pytest.importorskip("llama_cpp_py_sync")

TYPES = ["f32", "q8_0", "q4_0"]
LIMITS = {"max_loss_increase": 0.05, "max_kl": 0.02}
CONFIG: dict[str, Any] = {
    "evaluation": {"max_new_tokens": 8, "batch_size": 2, "max_test_rows": None, "seed": 0},
    "general_questions": [],
    "general_texts": [],
    "technique": "full",
    "quantization": None,
    "system_prompt": "Be brief.",
}


class Scored:
    """A merged model, its GGUF files, and the scores of both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.merged = spm_model(root / "merged")
        own = self.merged / "generation_config.json"
        penalty = {**json.loads(own.read_text(encoding="utf-8")), "repetition_penalty": 2.0}  # no engine obeys it
        own.write_text(json.dumps(penalty), encoding="utf-8")
        conversations = root / "conversations"
        conversations.mkdir()
        pq.write_table(pa.Table.from_pylist(CONVERSATIONS), conversations / "rows.parquet")
        self.shared = {
            "conversations": conversations,
            "base_model": self.merged,
            "merged_model": self.merged,
            "adapter": self.merged,
        }
        scores = self._job("scores", self.shared, CONFIG)
        tuned_scores.run(scores)
        made = self._job("gguf", {"merged_model": self.merged}, {"name": "shop", "types": TYPES})
        with converted_in_forks():
            self.files = files.run(made)
        self.job = self._job("gguf_scores", {**self.shared, "gguf": made.out, "scores": scores.out}, CONFIG)
        self.summary = gguf_scores.run(self.job)
        self.inputs = {"a/scores": scores.out, "a/gguf_scores": self.job.out}

    def _job(self, kind: str, inputs: dict[str, Path], config: dict[str, Any]) -> Job:
        out, work = self.root / kind / "out", self.root / kind / "work"
        out.mkdir(parents=True)
        work.mkdir()
        handling = {"limits": LIMITS, "rails": {}}
        return Job(kind, config, inputs, out, work, "cpu", RecordingReporter(), handling)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return Scored(tmp_path_factory.mktemp("scored"))


def test_the_files_are_listed_with_their_matrices(scored: Scored) -> None:
    folder = scored.root / "gguf" / "out"
    assert json.loads((folder / "gguf.json").read_text(encoding="utf-8")) == scored.files
    assert {path.name for path in folder.iterdir()} == {"gguf.json", *(f"shop-{name}.gguf" for name in TYPES)}
    assert scored.files["files"]["q8_0"]["matrix_types"] == {"Q8_0": 15}
    assert [entry["fallback"] for entry in scored.files["files"].values()] == [0, 0, 0]


def test_the_file_in_32_bit_agrees_with_the_merged_model(scored: Scored) -> None:
    costs, conversion = scored.summary["costs"]["f32"], scored.summary["conversion"]
    assert conversion == {name: costs[name] for name in ("agreement", "identical")}
    assert conversion["agreement"]["value"] == conversion["identical"]["value"] == 1.0
    assert abs(costs["loss_increase"]["value"]) < 1e-3 and 0 <= costs["kl"]["value"] < 1e-3
    answers = {row.name: row.scores["chrf"].value for row in compare(scored.inputs, {"primary_metric": "loss"}).rows}
    assert answers["a/gguf-f32"] == answers["a/merged"]


def test_the_long_comparison_shows_its_progress(scored: Scored) -> None:
    steps = [step for step, _ in scored.job.report.steps]
    totals = {total for _, total in scored.job.report.steps}
    assert len(totals) == 1 and steps == sorted(steps) and steps[-1] == totals.pop()
    assert steps[0] == 1, "the first answers are those of the merged model, one at a time"


def test_a_smaller_file_costs_more(scored: Scored) -> None:
    kl = [scored.summary["costs"][name]["kl"]["value"] for name in TYPES]
    assert kl == sorted(kl) and kl[2] > 10 * kl[1] > 0
    check = scored.summary["checks"]["gguf_gate"]
    assert check["failures"]["f32"] == [] and "KL from the merged model" in check["failures"]["q4_0"][1]
    assert (check["passed"], check["blocking"]) == (False, False)


def test_the_scores_pair_with_those_of_the_merged_model(scored: Scored) -> None:
    comparison = compare(scored.inputs, {"primary_metric": "loss"})
    rows = {row.name: row for row in comparison.rows}
    assert rows.keys() == {"a/merged", *(f"a/gguf-{name}" for name in TYPES)}
    assert {row.fingerprint for row in rows.values()} == {comparison.fingerprint}
    assert rows["a/gguf-f32"].scores["loss"].value == pytest.approx(rows["a/merged"].scores["loss"].value, abs=0.02)
    assert {"a/merged", "a/gguf-q4_0"} in [{claim.row, claim.rival} for claim in leads(comparison)]
    file = rows["a/gguf-q4_0"]
    assert file.gguf is not None and file.gguf.kl.value == scored.summary["costs"]["q4_0"]["kl"]["value"]
    assert any("a/gguf-q4_0: " in note and "against a/merged" in note for note in footnotes(comparison))


def test_a_file_is_never_tested_for_a_promotion(scored: Scored) -> None:
    comparison = compare(scored.inputs, {"primary_metric": "loss"})
    assert {row.kind for row in comparison.rows} == {"merged", "gguf"}
    of_files = [claim for claim in comparison.claims if claim.row.startswith("a/gguf")]
    assert {claim.kind for claim in of_files} == {"lead", "rail"}
    assert not KINDS["gguf"].is_candidate


def test_a_tokenizer_that_differs_is_reported(scored: Scored) -> None:
    """llama.cpp joins other pieces of this tokenizer, whose merges are few."""
    assert scored.summary["other_tokens"] == 4
    assert any("makes other tokens of 4 of 4 prompts" in note for note in scored.summary["notes"])


def test_another_type_does_not_measure_the_others_again(scored: Scored, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    earlier = {"scores": str(scored.job.out), "gguf": str(scored.job.inputs["gguf"])}
    handling = {**scored.job.handling, "earlier": earlier}
    report = RecordingReporter()
    job = Job("gguf_scores", scored.job.config, dict(scored.job.inputs), out, work, "cpu", report, handling)
    assert gguf_scores.run(job) == scored.summary
    assert not [line for line in report.lines if line.startswith("scoring")]
    for name in ("scores.json", "gguf.parquet", "samples.parquet"):
        assert (out / name).read_bytes() == (scored.job.out / name).read_bytes(), name


def test_without_test_rows_there_is_one_line(scored: Scored, tmp_path: Path) -> None:
    rows = [row for row in CONVERSATIONS if row["split"] != "test"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    job = Job(**{**vars(scored.job), "inputs": {**scored.job.inputs, "conversations": tmp_path}})
    with pytest.raises(UserError, match="in the test split"):
        gguf_scores.run(job)


def test_a_restart_measures_only_what_is_missing(scored: Scored) -> None:
    before = {name: (scored.job.out / name).read_bytes() for name in ("scores.json", "gguf.parquet")}
    (scored.job.work / "scored_gguf-q4_0.json").unlink()
    lines = scored.job.report.lines  # type: ignore[attr-defined]
    lines.clear()
    again = gguf_scores.run(scored.job)
    assert {key: again[key] for key in ("costs", "notes")} == {key: scored.summary[key] for key in ("costs", "notes")}
    assert [line.split(":")[0] for line in lines if line.startswith("scoring")] == ["scoring gguf-q4_0"]
    assert (scored.job.out / "gguf.parquet").read_bytes() == before["gguf.parquet"]
