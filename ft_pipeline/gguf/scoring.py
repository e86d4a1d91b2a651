"""The worker for `gguf_scores`: each GGUF file of a merged model, scored by llama.cpp on the same test rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.clusters import read_clusters, with_clusters
from ft_pipeline.evaluation.comparison.guardrails import judge_answers
from ft_pipeline.evaluation.scoring.prompts import Prompt, RenderedItem
from ft_pipeline.evaluation.scoring.scorer import Scorer, result_path
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.gguf.convert import convert
from ft_pipeline.gguf.evaluated_model import EvaluatedModel
from ft_pipeline.gguf.gate import judge, summarize
from ft_pipeline.gguf.index import INDEX
from ft_pipeline.gguf.llama_cpp_lm import LlamaCppLM
from ft_pipeline.gguf.merged_reference import GreedyAnswer, MergedReference, token_pair
from ft_pipeline.job import Job
from ft_pipeline.models.chat import stop_strings

EXACT = "f32"
"""The type whose file shows whether the conversion is right: it has the merged model's weights, not rounded."""
CLOSE = 0.1
"""Nats between the merged model's two best candidates below which either of them may be next in 32 bit."""
Record = dict[str, Any]


def run(job: Job) -> dict[str, Any]:
    """Score every file of the gguf artifact as `scores` does, and measure what it costs against the merged model.

    config: as for tuned_scores. handling: limits (GgufLimits), rails (ceilings of rails.judge_answers), earlier (see
    take_over; may be absent). inputs: gguf,
    merged_model, scores (of that merged model), base_model, conversations. Writes the files of scores, and MEASURES.
    Raises UserError if the test split is empty, or if llama.cpp cannot run a file.
    """
    files = json.loads((job.inputs["gguf"] / INDEX).read_text(encoding="utf-8"))["files"]
    tested_models = {type_name: _model_to_test(job, type_name) for type_name in files}
    scorer = Scorer(job, list(tested_models.values()))
    paths = {type_name: job.inputs["gguf"] / entry["file"] for type_name, entry in files.items()}
    take_over(job, tested_models)
    with _exact_file(job, paths) as exact_path:
        measuring = _Measuring(job, scorer, tested_models, exact_path)
        records = [record for type_name, path in paths.items() for record in measuring.measure(type_name, path)]
        exact = [record for record in records if record["type"] == EXACT] or measuring.agreements(EXACT, exact_path)
    pq.write_table(pa.Table.from_pylist(records), job.out / MEASURES)
    records, exact = (with_clusters(rows, measuring.clusters) for rows in (records, exact))
    costs = {type_name: summarize([row for row in records if row["type"] == type_name]) for type_name in files}
    more = {tested_models[type_name].name: {"gguf": measured} for type_name, measured in costs.items()}
    summary = scorer.write(list(tested_models.values()), more)
    broken_rails = measuring.broken_rails(job.out)
    return {
        **summary,
        "costs": costs,
        "conversion": {measure: summarize(exact)[measure] for measure in ("agreement", "identical")},
        "other_tokens": measuring.other_tokens,
        "broken_rails": broken_rails,
        "checks": {"gguf_gate": judge(costs, broken_rails, job.handling["limits"])},
        "notes": measuring.notes(files),
    }


def _model_to_test(job: Job, type_name: str) -> ModelUnderTest:
    facts = {"technique": job.config["technique"], "system_prompt": job.config["system_prompt"], "quantized": type_name}
    prompt = Prompt(system_prompt=job.config["system_prompt"], drops_reasoning=job.config.get("reasoning") == "drop")
    return ModelUnderTest(f"gguf-{type_name}", "gguf", prompt, facts, is_candidate=False)


class _Measuring:
    """Measures the files of one merged model, which is loaded once."""

    def __init__(self, job: Job, scorer: Scorer, tested_models: dict[str, ModelUnderTest], exact_path: Path) -> None:
        """exact_path: the model's file in 32 bit."""
        self._job = job
        self._scorer = scorer
        self._tested_models = tested_models
        self._reference = MergedReference(job.inputs["merged_model"], scorer.tokenizer)
        first = next(iter(tested_models.values()))
        self._items = scorer.render(first, self._reference.window)
        comparisons = 1 + len(tested_models.keys() | {EXACT})
        scorer.progress.expect(comparisons * len(self._items))
        self.clusters = read_clusters(job.inputs["conversations"])
        self._merged_samples = _samples(job.inputs["scores"], "merged")
        self.other_tokens = 0
        """Number of prompts of which llama.cpp's tokenizer makes other tokens than the model's own."""
        self._answers = self._own_answers(exact_path)

    def measure(self, type_name: str, path: Path) -> list[Record]:
        """Score a file, unless an earlier start of this job has. Return its records in MEASURES."""
        tested_model, measured = self._tested_models[type_name], measured_path(self._job, type_name)
        if measured.is_file() and self._scorer.skip_if_scored(tested_model):
            records: list[Record] = json.loads(measured.read_text(encoding="utf-8"))
            self._scorer.progress.advance(len(self._items))
            return records
        with EvaluatedModel(path, self._longest()) as model:
            lm = LlamaCppLM(model, self._scorer.tokenizer, self._reference, self._scorer.progress.advance)
            self._scorer.score_lm(lm, tested_model, self._reference.window)
        agreements = {record["item"]: record for record in self.agreements(type_name, path)}
        records = [{**self._losses(rendered, lm), **agreements[rendered.item.id]} for rendered in self._items]
        measured.write_text(json.dumps(records), encoding="utf-8")
        return records

    def agreements(self, type_name: str, path: Path) -> list[Record]:
        """Return, for each test answer, whether the file agrees with the merged model's own answer.

        Both are computed in 32 bit, one answer at a time. The file reads the merged model's answer: its greedy answer
        has the same tokens up to the first position at which its best candidate is another one.
        """
        self._job.report.log(f"comparing the answers of {type_name} with the merged model's")
        records = []
        with EvaluatedModel(path, self._longest(), exact=True) as model:
            for rendered, own in zip(self._items, self._answers, strict=True):
                logits = model.logits(own.prompt + own.answer[:-1], len(own.prompt) - 1)
                same = [best == token for best, token in zip(logits.argmax(axis=1), own.answer, strict=True)]
                records.append(
                    {
                        "type": type_name,
                        "item": rendered.item.id,
                        "group": rendered.item.group,
                        "agrees": all(same[: own.settled(CLOSE)]),
                        "identical": all(same),
                        "settled_tokens": own.settled(CLOSE),
                        "own_tokens": len(own.answer),
                    }
                )
                self._scorer.progress.advance(1)
        return records

    def broken_rails(self, scores: Path) -> dict[str, list[str]]:
        """Return, by type, the rails that the merged model passes and the file does not."""
        ceilings = self._job.handling["rails"]
        merged = with_clusters(self._merged_samples, self.clusters)
        passed = {rail.name for rail in judge_answers(merged, ceilings) if rail.verdict == "pass"}
        return {
            type_name: [
                rail.name
                for rail in judge_answers(with_clusters(_samples(scores, tested_model.name), self.clusters), ceilings)
                if rail.name in passed and rail.verdict != "pass"
            ]
            for type_name, tested_model in self._tested_models.items()
        }

    def notes(self, files: dict[str, Any]) -> list[str]:
        """Return what a user should know about the files, as sentences."""
        notes = [f"{entry['file']}: {entry['note']}" for entry in files.values() if entry["note"]]
        if self.other_tokens:
            notes.append(
                f"llama.cpp makes other tokens of {self.other_tokens} of {len(self._items)} prompts than the model's "
                "own tokenizer. They were scored with its own. A server that tokenizes by llama.cpp may answer worse."
            )
        return notes

    def _own_answers(self, exact_path: Path) -> list[GreedyAnswer]:
        """Return the merged model's greedy answers in 32 bit.

        Guessed are those that `scores` recorded, and after the first other token, those of its file in 32 bit.
        """
        self._job.report.log("answers of the merged model in 32 bit, one at a time")
        recorded = {sample["item"]: sample for sample in self._merged_samples}
        limit, stop_ids = self._scorer.max_new_tokens, self._reference.stop_ids
        answers = []
        with EvaluatedModel(exact_path, self._longest()) as model:
            for rendered in self._items:
                prompt, guess = self._ids(rendered.context), self._recorded_ids(recorded[rendered.item.id])
                self.other_tokens += model.tokenize_prompt(rendered.context) != prompt

                def draft(answer: list[int], prompt: list[int] = prompt, guess: list[int] = guess) -> list[int]:
                    return model.answer(prompt + answer, stop_ids, limit - len(answer)) if answer else guess

                answers.append(self._reference.answer(prompt, draft, limit))
                self._scorer.progress.advance(1)
        return answers

    def _recorded_ids(self, sample: Record) -> list[int]:
        stop = self._scorer.tokenizer.convert_tokens_to_ids(stop_strings(self._scorer.tokenizer)[0])
        ending = [stop] if sample["finish_reason"] == "stop" else []
        return [*self._ids(sample["answer"]), *ending][: self._scorer.max_new_tokens]

    def _losses(self, rendered: RenderedItem, lm: LlamaCppLM) -> Record:
        context, target = self._ids(rendered.context), self._ids(rendered.target)
        merged = self._reference.log_probabilities(context, target)
        return {
            "answer_tokens": len(target),
            "loss_sum": -sum(lm.log_probs[rendered.context, rendered.target]),
            "merged_loss_sum": -float(merged[range(len(target)), target].sum()),
            "kl_sum": lm.divergences[token_pair(context, target)],
        }

    def _longest(self) -> int:
        """Return the number of tokens of the longest sequence."""
        limit = self._scorer.max_new_tokens
        return max(len(self._ids(item.context)) + max(len(self._ids(item.target)), limit) for item in self._items) + 1

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._scorer.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@contextmanager
def _exact_file(job: Job, paths: dict[str, Path]) -> Iterator[Path]:
    """Yield the model's file in 32 bit: the artifact's, or one that is converted for this, and then removed."""
    if EXACT in paths:
        yield paths[EXACT]
        return
    path = job.work / "exact.gguf"
    convert(job.inputs["merged_model"], path, "exact")
    try:
        yield path
    finally:
        path.unlink()


def _samples(folder: Path, name: str) -> Sequence[Record]:
    """Return the records of a row in samples.parquet, in the order of the items."""
    rows = pq.read_table(folder / "samples.parquet", filters=[("name", "=", name)]).to_pylist()
    return sorted(rows, key=lambda row: row["item"])


MEASURES = "gguf.parquet"
"""The file with a record per type and test answer."""


def measured_path(job: Job, type_name: str) -> Path:
    """Return where the records of a type are kept until the job has measured all of them."""
    return job.work / f"measured_{type_name}.json"


def take_over(job: Job, tested_models: Mapping[str, ModelUnderTest]) -> None:
    """Write the results of earlier scores to the job's work folder, for the files that have the same bytes.

    job.handling["earlier"]: the folders of these `scores`, and of the `gguf` files that they are of; they differ from
    this job in the set of files only. None or absent: there are none. tested_models: by type.
    """
    earlier = job.handling.get("earlier")
    if not earlier or not Path(earlier["scores"]).is_dir():
        return
    scores, digests = Path(earlier["scores"]), _digests(Path(earlier["gguf"]))
    for type_name, digest in _digests(job.inputs["gguf"]).items():
        if digests.get(type_name) == digest:
            _write_results(job, scores, type_name, tested_models[type_name].name)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a gguf artifact, by type."""
    files = json.loads((folder / INDEX).read_text(encoding="utf-8"))["files"]
    return {type_name: entry["sha256"] for type_name, entry in files.items()}


def _write_results(job: Job, scores: Path, type_name: str, name: str) -> None:
    document = json.loads((scores / "scores.json").read_text(encoding="utf-8"))
    row = next(row for row in document["rows"] if row["name"] == name)
    result = {
        "row": {key: value for key, value in row.items() if key != "gguf"},
        "samples": [_without_name(record) for record in _records(scores / "samples.parquet", "name", name)],
        **{key: [] for key in ("general", "tasks", "validation")},
        "task_metrics": {},
    }
    result_path(job, name).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    records = _records(scores / MEASURES, "type", type_name)
    measured_path(job, type_name).write_text(json.dumps(records), encoding="utf-8")


def _records(path: Path, column: str, value: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = pq.read_table(path, filters=[(column, "=", value)]).to_pylist()
    return records


def _without_name(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "name"}
