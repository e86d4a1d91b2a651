"""Run tasks of lm-eval, and the user's tasks in its format, by name on the model as it is served."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.scoring.lm_eval_model import RecordingLM
from ft_pipeline.job import Job

_DEFAULT_MEAN_METRICS = ("acc", "acc_norm", "exact_match")
"""Metrics that are means over the documents if a task declares no aggregation."""

Record = dict[str, Any]
"""A record of tasks.parquet: item (`task:document`), metric (`task/metric`), value."""


class LmEvalTasks:
    """The tasks of `evaluation.tasks`."""

    def __init__(self, job: Job) -> None:
        """job: config.evaluation has tasks, task_documents, seed; inputs has `tasks` if there is an include_path."""
        settings = job.config["evaluation"]
        self.names: list[str] = settings.get("tasks") or []
        self._limit: int | None = settings.get("task_documents")
        self._seed: int = settings["seed"]
        self._folder = job.inputs.get("tasks")
        self._work = job.work
        self._log: Callable[[str], None] = job.report.log
        self.metrics: dict[str, Metric] = {}
        """The metrics measured so far."""

    def run(self, lm: RecordingLM, system_prompt: str | None) -> list[Record]:
        """Run every task and return the records.

        lm-eval renders the chat template, the system prompt and the task's examples. Raises UserError if a task is
        unknown, its data is not available, or it has no metric that is a mean over documents.
        """
        if not self.names:
            return []
        self._log(f"lm-eval tasks: {', '.join(self.names)}")
        results = self._evaluate(lm, system_prompt)
        records = [record for task in sorted(results["samples"]) for record in self._records(task, results)]
        for task in results["samples"]:
            if not any(record["metric"].startswith(f"{task}/") for record in records):
                raise UserError(
                    f"evaluation.tasks: {task} has no metric that is a mean over its documents, which an interval "
                    "needs. Remove the task, or give a metric `aggregation: mean`."
                )
        return records

    def _evaluate(self, lm: RecordingLM, system_prompt: str | None) -> Mapping[str, Any]:
        import datasets
        import lm_eval

        datasets.disable_progress_bars()
        with (
            _working_folder(self._folder),
            _datasets_cache(self._work / "datasets"),
            _without_the_machine(),
            self._explain_errors(),
        ):
            results = lm_eval.simple_evaluate(
                model=lm,
                tasks=self.names,
                task_manager=self._manager(),
                limit=self._limit,
                system_instruction=system_prompt,
                apply_chat_template=True,
                fewshot_as_multiturn=True,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=self._seed,
                numpy_random_seed=self._seed,
                torch_random_seed=self._seed,
                fewshot_random_seed=self._seed,
            )
        assert results is not None
        return results

    def _manager(self) -> Any:
        """Return a task manager that knows all tasks. It knows only the user's tasks if no other one is named, because
        lm-eval would read thousands of task files. UserError if a task is unknown."""
        from lm_eval.tasks import TaskManager

        path = str(self._folder) if self._folder else None
        if path is not None:
            own_manager = TaskManager(include_path=path, include_defaults=False)
            if set(self.names) <= set(own_manager.all_tasks):
                return own_manager
        manager = TaskManager(include_path=path)
        for name in self.names:
            if name not in manager.all_tasks:
                similar = get_close_matches(name, manager.all_tasks, n=1)
                hint = f"Did you mean {similar[0]!r}?" if similar else "Run `lm_eval ls tasks` to list the tasks."
                raise UserError(f"evaluation.tasks: unknown task {name!r}. {hint}")
        return manager

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Raise UserError if lm-eval cannot read the tasks or their data."""
        try:
            yield
        except (OSError, ValueError) as error:  # bases of the errors of datasets and huggingface_hub
            first_line = str(error).strip().split("\n")[0][:300]
            raise UserError(
                f"evaluation.tasks ({', '.join(self.names)}): {type(error).__name__}: {first_line}. Tasks that come "
                "with lm-eval download their data from the hub. Without access, put a task with local files into "
                "evaluation.include_path."
            ) from error

    def _records(self, task: str, results: Mapping[str, Any]) -> list[Record]:
        """Return a record per document and metric of a task, and add the metrics to `self.metrics`."""
        mean_metrics = _mean_metrics(results["configs"][task])
        higher_is_better = results["higher_is_better"].get(task, {})
        records = []
        for sample in results["samples"][task]:
            for metric in mean_metrics & sample.keys():
                name = f"{task}/{metric}"
                if sample.get("filter", "none") != "none":
                    name += f":{sample['filter']}"
                lower_is_better = higher_is_better.get(metric) is False
                self.metrics[name] = Metric(name, lower_is_better, "of its task", f"lm-eval's {task}")
                records.append({"item": f"{task}:{sample['doc_id']}", "metric": name, "value": float(sample[metric])})
        return records


def _mean_metrics(config: Mapping[str, Any]) -> set[str]:
    """Return the metrics of a task that are means over its documents. Other metrics have no value per document."""
    entries = config.get("metric_list") or [{"metric": metric} for metric in _DEFAULT_MEAN_METRICS]
    return {
        entry["metric"]
        for entry in entries
        if entry.get("aggregation") == "mean"
        or ("aggregation" not in entry and entry["metric"] in _DEFAULT_MEAN_METRICS)
    }


@contextlib.contextmanager
def _working_folder(folder: Path | None) -> Iterator[None]:
    """Change to the folder of the user's tasks, if there is one: a task's `data_files` are relative to it."""
    if folder is None:
        yield
    else:
        with contextlib.chdir(folder):
            yield


@contextlib.contextmanager
def _without_the_machine() -> Iterator[None]:
    """Let lm-eval not describe the machine, which nothing reads: it runs a dozen programs, `pip list` among them."""
    from lm_eval import evaluator

    describe = evaluator.add_env_info
    evaluator.add_env_info = lambda _: None
    try:
        yield
    finally:
        evaluator.add_env_info = describe


@contextlib.contextmanager
def _datasets_cache(folder: Path) -> Iterator[None]:
    """Keep the cache of `datasets` in the job's folder, so that a task is not read from the cache of another run."""
    import datasets.config

    previous = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = previous


def metric_means(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean of each metric."""
    values: dict[str, list[float]] = {}
    for record in records:
        values.setdefault(record["metric"], []).append(record["value"])
    return {metric: sum(metric_values) / len(metric_values) for metric, metric_values in values.items()}
