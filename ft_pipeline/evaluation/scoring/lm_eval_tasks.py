"""Tasks of lm-eval, and the user's tasks in its format, by name: run on the model as it is served."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
from ft_pipeline.job import Job

_MEANS = ("acc", "acc_norm", "exact_match")
"""Metrics that count as means if a task declares no aggregation."""

Record = dict[str, Any]
"""item (`task:document`), metric (`task/metric`), value."""


class OwnTasks:
    """The tasks of `evaluation.tasks`, each run once per model and system prompt."""

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

    def run(self, lm: LoadedLM, system_prompt: str | None) -> list[Record]:
        """Run every task and return the records.

        lm-eval renders the chat template, the system prompt and the task's examples. Raises UserError if a task is
        unknown, its data is not available, or it has no metric that is a mean over documents.
        """
        if not self.names:
            return []
        self._log(f"lm-eval tasks: {', '.join(self.names)}")
        results = self._evaluate(lm, system_prompt)
        records = [record for task in sorted(results["samples"]) for record in self._records(task, results)]
        missing = [task for task in results["samples"] if not any(r["metric"].startswith(f"{task}/") for r in records)]
        if missing:
            raise UserError(
                f"evaluation.tasks: {missing[0]} has no metric that is a mean over its documents, which an interval "
                "needs. Remove the task, or give a metric `aggregation: mean`."
            )
        return records

    def _evaluate(self, lm: LoadedLM, system_prompt: str | None) -> Mapping[str, Any]:
        import datasets
        import lm_eval

        datasets.disable_progress_bars()
        with _read_from(self._folder), _cached_in(self._work / "datasets"), self._clear_errors():
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
        """Return a task manager, for the user's tasks only if they suffice: lm-eval reads thousands of task files."""
        from lm_eval.tasks import TaskManager

        path = str(self._folder) if self._folder else None
        if path is not None:
            own = TaskManager(include_path=path, include_defaults=False)
            if set(self.names) <= set(own.all_tasks):
                return own
        manager = TaskManager(include_path=path)
        for name in self.names:
            if name not in manager.all_tasks:
                near = get_close_matches(name, manager.all_tasks, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else "Run `lm_eval ls tasks` to list the tasks."
                raise UserError(f"evaluation.tasks: unknown task {name!r}. {hint}")
        return manager

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # bases of the errors of datasets and huggingface_hub
            first = str(error).strip().split("\n")[0][:300]
            raise UserError(
                f"evaluation.tasks ({', '.join(self.names)}): {type(error).__name__}: {first}. Tasks that come with "
                "lm-eval download their data from the hub. Without access, put a task with local files into "
                "evaluation.include_path."
            ) from error

    def _records(self, task: str, results: Mapping[str, Any]) -> list[Record]:
        means = _means(results["configs"][task])
        better = results["higher_is_better"].get(task, {})
        records = []
        for sample in results["samples"][task]:
            for metric in means & sample.keys():
                name = f"{task}/{metric}"
                if sample.get("filter", "none") != "none":
                    name += f":{sample['filter']}"
                self.metrics[name] = Metric(name, better.get(metric) is False, "of its task", f"lm-eval's {task}")
                records.append({"item": f"{task}:{sample['doc_id']}", "metric": name, "value": float(sample[metric])})
        return records


def _means(config: Mapping[str, Any]) -> set[str]:
    """Return the metrics of a task that are means over its documents: only these have a value per document."""
    wanted = config.get("metric_list") or [{"metric": metric} for metric in _MEANS]
    return {
        entry["metric"]
        for entry in wanted
        if entry.get("aggregation") == "mean" or ("aggregation" not in entry and entry["metric"] in _MEANS)
    }


@contextlib.contextmanager
def _read_from(folder: Path | None) -> Iterator[None]:
    """Change to the folder of tasks, since the `data_files` of a task are relative to it."""
    if folder is None:
        yield
    else:
        with contextlib.chdir(folder):
            yield


@contextlib.contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Keep the cache of `datasets` for local files with the job, so that no other run's copy is read."""
    import datasets.config

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


def means(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean of each metric."""
    values: dict[str, list[float]] = {}
    for record in records:
        values.setdefault(record["metric"], []).append(record["value"])
    return {metric: sum(numbers) / len(numbers) for metric, numbers in values.items()}
