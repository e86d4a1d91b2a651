"""Score loaded models under prompts, and write the rows and samples of `prompt_baseline` and `scores`."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item, make_items, read_rows, select_rows, select_test_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.model_kinds import BASELINES
from ft_pipeline.evaluation.scoring.answer_limit import answer_limit
from ft_pipeline.evaluation.scoring.fingerprint import Parts, evaluation_parts, fingerprint
from ft_pipeline.evaluation.scoring.general_suite import score_general
from ft_pipeline.evaluation.scoring.lm_eval_harness import Sample, answer_task, loss_task, run_tasks
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM, RecordingLM
from ft_pipeline.evaluation.scoring.lm_eval_tasks import LmEvalTasks, Record, metric_means
from ft_pipeline.evaluation.scoring.probe_answers import RenderedProbe, answer_probes, render_probes, write_probes
from ft_pipeline.evaluation.scoring.probe_files import Probe, probe_digests
from ft_pipeline.evaluation.scoring.prompts import RenderedItem, fitting_items, render_items
from ft_pipeline.evaluation.scoring.records import (
    Answer,
    Likelihood,
    sample_record,
    summarize_general,
    summarize_samples,
    text_and_calls,
    write_scores,
)
from ft_pipeline.evaluation.scoring.reference_tokens import byte_count, count_lost, find_reference
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.job import Job, Reporter
from ft_pipeline.models.chat import stop_strings
from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name
from ft_pipeline.models.decoding.generate import Generation
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.models.soft_prompt import virtual_token_count
from ft_pipeline.models.tool_calls import Call, read_answer, require_call_family


class Scorer:
    """Scores the models of one job, which share the job's items, tokenizer and settings."""

    def __init__(self, job: Job, tested_models: Sequence[ModelUnderTest]) -> None:
        self.job = job
        self.settings = job.config["evaluation"]
        self.lm_eval_tasks = LmEvalTasks(job)
        self.tokenizer = load_tokenizer(job.inputs["base_model"])
        self._task_records: dict[tuple[str, str | None], list[Record]] = {}
        self.questions: list[dict[str, Any]] = job.config["general_questions"]
        self.texts: list[dict[str, Any]] = job.config["general_texts"]
        self.probes: dict[str, list[Probe]] = job.config.get("probes", {})
        self.progress = RequestProgress(job.report, sum(map(self._count_requests, tested_models)))

    @cached_property
    def test_rows(self) -> list[dict[str, Any]]:
        """The conversations that are scored."""
        return select_test_rows(self._rows, self.settings["max_test_rows"])

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """The conversations of all splits. They are not kept: they may be many."""
        return read_rows(self.job.inputs["conversations"])

    @cached_property
    def items(self) -> list[Item]:
        """The test items. UserError if the references do not go with the declared format and checks, or if some have
        tools, and calls that the chat template writes cannot be read."""
        items = make_items(self.test_rows)
        AnswerMetrics.of(self.job.config, items).check_references(items, self._rows)
        if any(item.uses_tools for item in items):
            require_call_family(self.tokenizer)
        return items

    @cached_property
    def answer_metrics(self) -> AnswerMetrics:
        """The metrics of answers."""
        return AnswerMetrics.of(self.job.config, self.items)

    @cached_property
    def validation_items(self) -> list[Item]:
        """The items of the validation split, on which candidates are screened. Only likelihoods are computed."""
        rows = read_rows(self.job.inputs["conversations"], "validation")
        return make_items(select_rows(rows, "validation", self.settings["max_test_rows"]))

    @cached_property
    def parts(self) -> Parts:
        """The parts of the evaluation fingerprint."""
        inputs = self.job.inputs
        return evaluation_parts(self.test_rows, inputs["base_model"], self.job.config, inputs.get("project_base"))

    @cached_property
    def max_new_tokens(self) -> int:
        """The longest answer, in tokens of this model's tokenizer."""
        project_base = self.job.inputs.get("project_base")
        counted_by = load_tokenizer(project_base) if project_base else None
        references = [item.written for item in self.items]
        return answer_limit(self.settings["max_new_tokens"], self.tokenizer, references, counted_by)

    @cached_property
    def lost_references(self) -> int:
        """The number of references that the tokenizer does not give back."""
        items = [*self.items, *self.validation_items]
        return count_lost(self.tokenizer, [item.reference for item in items])

    def score(self, model: Any, tested_model: ModelUnderTest) -> None:
        """Score the loaded `model`, and write the result to the job's work folder, where a resumed job finds it."""
        lm = LoadedLM(model, self.tokenizer, self.settings["batch_size"], self.progress.advance)
        task_lm = LoadedLM(model, self.tokenizer, self.settings["batch_size"], lambda done: None)
        self.score_lm(lm, tested_model, window_of(model), task_lm)

    def score_lm(
        self, lm: RecordingLM, tested_model: ModelUnderTest, window: int | None, task_lm: RecordingLM | None = None
    ) -> None:
        """Do what `score` does, with any engine. window: tokens of text that it can read; None: no limit.

        task_lm: the same model, for the lm-eval tasks of a candidate.
        """
        self.job.report.log(
            f"scoring {tested_model.name}: {len(self.items)} answers of {len(self.test_rows)} conversations"
        )
        folder = self.job.work / "lm_eval" / tested_model.name
        rendered_items, asked = self.render(tested_model, window), self._render_probes(tested_model, window)
        samples = self.score_items(lm, rendered_items, folder)
        validation = self._score_validation(lm, tested_model, window, folder) if tested_model.is_candidate else []
        general: list[dict[str, Any]] = []
        if tested_model.runs_general_suite:
            general = score_general(lm, self.tokenizer, self.questions, self.texts, folder)
        probes = answer_probes(lm, asked, self.max_new_tokens)
        if tested_model.same_weights_as is not None:
            same_weights = self.result(tested_model.same_weights_as)
            general, probes = same_weights["general"], same_weights["probes"]
        tasks = self._run_lm_eval_tasks(task_lm, tested_model) if task_lm and tested_model.is_candidate else []
        result = {
            "row": {
                **self._row(tested_model, lm, samples, general, tasks),
                **({"probes": probe_digests(self.probes)} if probes else {}),
            },
            "samples": samples,
            "general": general,
            "tasks": tasks,
            "validation": validation,
            "probes": probes,
            "task_metrics": {name: vars(metric) for name, metric in self.lm_eval_tasks.metrics.items()},
        }
        path = result_path(self.job, tested_model.name)
        path.with_suffix(".part").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
        path.with_suffix(".part").replace(path)

    def render(self, tested_model: ModelUnderTest, window: int | None) -> list[RenderedItem]:
        """Return the test items under the model's prompt. UserError if one does not fit into `window` tokens."""
        return render_items(
            self.tokenizer,
            self.items,
            tested_model.prompt,
            name=tested_model.name,
            window=window,
            max_new_tokens=self.max_new_tokens,
        )

    def _render_probes(self, tested_model: ModelUnderTest, window: int | None) -> list[RenderedProbe]:
        probes = self.probes if tested_model.runs_general_suite else {}
        return render_probes(
            self.tokenizer, probes, tested_model.prompt, window=window, max_new_tokens=self.max_new_tokens
        )

    def skip_if_scored(self, tested_model: ModelUnderTest) -> bool:
        """Return whether an earlier start of this job has scored the model. If so, count its requests as done."""
        is_scored = result_path(self.job, tested_model.name).is_file()
        if is_scored:
            self.progress.advance(self._count_requests(tested_model))
        return is_scored

    def write(
        self, tested_models: Sequence[ModelUnderTest], more: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Write the scores and their evaluation parts to `job.out`, and return the job's summary.

        more: further keys of rows, by name of the model.
        """
        results = [self.result(tested_model.name) for tested_model in tested_models]
        rows = [{**result["row"], **(more or {}).get(result["row"]["name"], {})} for result in results]
        records = {
            name: [{"name": result["row"]["name"], **record} for result in results for record in result.get(name, ())]
            for name in ("samples", "general", "tasks", "validation", "probes")
        }
        task_metrics = {name: metric for result in results for name, metric in result["task_metrics"].items()}
        metrics = {**self.answer_metrics.custom_definitions, **task_metrics}
        write_scores(self.job.out, rows, self.parts, records, metrics)
        if records["probes"]:
            write_probes(self.job.out, records["probes"])
        return {
            "rows": rows,
            "test_items": len(self.items),
            "test_rows": len(self.test_rows),
            "computed_in": dtype_name(compute_dtype(self.job.device)),
        }

    def score_items(self, lm: RecordingLM, rendered_items: Sequence[RenderedItem], folder: Path) -> list[Record]:
        """Score every item's reference answer and the model's own answer. Return the records of samples.parquet."""
        documents = _documents(rendered_items)
        stop = stop_strings(self.tokenizer)
        logged = run_tasks(lm, [loss_task(documents), answer_task(documents, stop, self.max_new_tokens)], folder)
        return self.answer_metrics.complete(
            [
                self._sample(lm, rendered, answer)
                for rendered, answer in zip(rendered_items, logged["answers"], strict=True)
            ]
        )

    def _sample(self, lm: RecordingLM, rendered: RenderedItem, answer: Sample) -> Record:
        generation = lm.generations[rendered.context]
        return sample_record(
            rendered.item,
            rendered.context,
            len(lm.log_probs[rendered.context, rendered.target]),
            self._likelihood(lm, rendered),
            answer_of(self.tokenizer, rendered.item, answer["filtered_resps"][0], generation),
            self.answer_metrics,
        )

    def _likelihood(self, lm: RecordingLM, rendered: RenderedItem) -> Likelihood:
        """Return the likelihood of an item's reference answer. Its content is withheld if the tokenizer loses texts."""
        log_probs = lm.log_probs[rendered.context, rendered.target]
        tokens = find_reference(self.tokenizer, rendered.target, rendered.item.reference)
        content_nats, stop_nats = tokens.nats(log_probs)
        return Likelihood(-math.fsum(log_probs), None if self.lost_references else content_nats, stop_nats)

    def _score_validation(
        self, lm: RecordingLM, tested_model: ModelUnderTest, window: int | None, folder: Path
    ) -> list[Record]:
        """Score the reference answers of the validation split. Return the records of validation.parquet.

        Items that do not fit the model are left out: nobody asked to have them scored.
        """
        rendered_items = fitting_items(self.tokenizer, self.validation_items, tested_model.prompt, window)
        if not rendered_items:
            return []
        run_tasks(lm, [loss_task(_documents(rendered_items))], folder / "validation")
        return [
            {
                "item": rendered.item.id,
                "group": rendered.item.group,
                "content_nats": self._likelihood(lm, rendered).content_nats,
                "content_bytes": byte_count(rendered.item.reference),
            }
            for rendered in rendered_items
        ]

    def _run_lm_eval_tasks(self, lm: RecordingLM, tested_model: ModelUnderTest) -> list[Record]:
        """Run the lm-eval tasks once per model and system prompt, and return their records.

        Prompts that differ only in their examples share the records, since a task has its own examples.
        """
        system_prompt = tested_model.prompt.fixed_system_prompt
        key = ("base" if tested_model.kind in BASELINES else tested_model.kind, system_prompt)
        if key not in self._task_records:
            self._task_records[key] = self.lm_eval_tasks.run(lm, system_prompt)
        return self._task_records[key]

    def _row(
        self,
        tested_model: ModelUnderTest,
        lm: RecordingLM,
        samples: list[dict[str, Any]],
        general: list[dict[str, Any]],
        tasks: list[Record],
    ) -> dict[str, Any]:
        """Return the model's row in scores.json. UserError if a score is not finite."""
        general_scores = summarize_general(general)
        scores = {
            **summarize_samples(samples, self.answer_metrics),
            **{f"general_{name}": value for name, value in general_scores.items()},
            **metric_means(tasks),
        }
        for metric, value in scores.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{tested_model.name}: {metric} is {value}, because the model's weights or logits are not finite. "
                    "Train again with a lower learning_rate."
                )
        return {
            "name": tested_model.name,
            "kind": tested_model.kind,
            "scores": {metric: {"value": value} for metric, value in scores.items()},
            "prompt_tokens_per_call": fmean(sample["prompt_tokens"] for sample in samples),
            "shared_prompt_tokens": shared_prefix(self.tokenizer, [sample["prompt"] for sample in samples]),
            "generated_tokens_per_call": fmean(sample["generated_tokens"] for sample in samples),
            "seconds_per_call": lm.seconds_per_call,
            "cut_off": sum(sample["finish_reason"] == "length" for sample in samples),
            "fingerprint": fingerprint(self.parts),
            "max_new_tokens": self.max_new_tokens,
            "withheld": self._withheld(),
            "computed_in": lm.computed_in,
            "model": tested_model.facts,
            "general": general_scores or None,
        }

    def _withheld(self) -> dict[str, str]:
        """Return why metrics that are not in this row cannot be compared."""
        lost = self.lost_references
        return {"nats_per_byte": f"its tokenizer loses {lost} of the references"} if lost else {}

    def _count_requests(self, tested_model: ModelUnderTest) -> int:
        likelihoods = len(self.items) + (len(self.validation_items) if tested_model.is_candidate else 0)
        choices = sum(len(row["choices"]) for row in self.questions)
        general = choices + len(self.texts) + sum(map(len, self.probes.values()))
        return likelihoods + len(self.items) + (general if tested_model.runs_general_suite else 0)

    def result(self, name: str) -> dict[str, Any]:
        """Return what `score` kept of a model: row, samples and further records."""
        result: dict[str, Any] = json.loads(result_path(self.job, name).read_text(encoding="utf-8"))
        return result


def answer_of(tokenizer: Any, item: Item, text: str, generation: Generation) -> Answer:
    """Return what a model wrote. text: as lm-eval cuts it."""
    calls: Sequence[Call] = ()
    if item.uses_tools:  # lm-eval's text has no control tokens, which some templates write in calls
        text, calls = text_and_calls(read_answer(tokenizer, generation.raw, item.tools))
    return Answer(text, generation.finish_reason, generation.prompt_tokens, generation.answer_tokens, calls)


def result_path(job: Job, name: str) -> Path:
    """Return where the result of a scored model is kept until the job has scored all of them."""
    return job.work / f"scored_{name}.json"


def _documents(rendered_items: Sequence[RenderedItem]) -> list[dict[str, Any]]:
    """Return the items as lm-eval reads them."""
    return [
        {
            "item": rendered.item.id,
            "context": rendered.context,
            "target": rendered.target,
            "reference": rendered.item.reference,
        }
        for rendered in rendered_items
    ]


def shared_prefix(tokenizer: Any, prompts: Sequence[str]) -> int:
    """Return with how many equal tokens all prompts begin: what a server computes once, and a provider caches."""
    token_ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    first_and_last = (min(token_ids), max(token_ids))  # what these two begin with, all others do
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*first_and_last, strict=False)))


def window_of(model: Any) -> int | None:
    """Return how many tokens of text the model can read, without the positions of a learned prompt; None: no limit."""
    positions = context_window(model.config)
    return None if positions is None else positions - virtual_token_count(model)


class RequestProgress:
    """Reports the requests answered so far, out of all requests of the job."""

    def __init__(self, report: Reporter, total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def expect(self, requests: int) -> None:
        """Count further requests to those of the job."""
        self._total += requests

    def advance(self, requests: int) -> None:
        self._done = min(self._done + requests, self._total)
        self._report.progress(self._done, self._total)
