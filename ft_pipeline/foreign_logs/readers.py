"""Read a log: lm-eval's samples, Inspect's .eval or .json, promptfoo's output, or a table of item, model and score."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.foreign_logs import inspect_log
from ft_pipeline.foreign_logs.scores import ModelScores, text_of

SAMPLES = re.compile(r"^samples_(.+)_(\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl$")
"""lm-eval's name of a file of samples: task and date."""
ANSWERS = ("answer", "answers", "target", "targets", "label", "labels", "gold", "id", "doc_id", "idx", "index")
"""Keys of a document that are not what is asked."""
OWN_METRICS = "metrics"
PERPLEXITY = "perplexity"
"""Of a sample, lm-eval logs the log-likelihood under this name, of which higher values are better."""
FAILED_REQUEST = 2
"""promptfoo's reason of a failure that is no wrong answer."""
NEEDED = ("item", "model", "score")
"""Columns of a table."""
HOW = "Name a samples file or the output folder of lm-eval, a log of Inspect, the output of promptfoo, or a table."


def read_log(path: Path) -> list[ModelScores]:
    """Return the scores of each model in a log. UserError if it is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist. {HOW}")
    try:
        found = _reader(path)(path)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a log ({type(error).__name__}: {error}). {HOW}") from None
    if not any(scores.values for scores in found):
        raise UserError(f"{path} has no scores. {HOW}")
    return found


def _reader(path: Path) -> Callable[[Path], list[ModelScores]]:
    if path.is_dir():
        return _read_lm_eval_folder
    if path.suffix == ".eval":
        return inspect_log.read
    if path.suffix == ".csv":
        return _read_csv
    if path.suffix == ".jsonl":
        return _read_lm_eval_file if "doc_id" in next(iter(_lines(path)), {}) else _read_jsonl
    if path.suffix == ".json":
        return _read_json
    raise UserError(f"{path.name} is no log that is known. {HOW}")


def _read_json(path: Path) -> list[ModelScores]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, dict) and "eval" in document:
        return [inspect_log.scores_of(document, document.get("samples") or (), str(path))]
    if isinstance(document, dict) and isinstance(document.get("results"), dict) and "results" in document["results"]:
        return _of_promptfoo(document["results"]["results"], str(path))
    if isinstance(document, list):
        return _of_table(document, str(path))
    raise UserError(f"{path.name} is no log that is known. {HOW}")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


# --- lm-eval ----------------------------------------------------------------------------------------------------------


def _read_lm_eval_folder(folder: Path) -> list[ModelScores]:
    """Return the model of each folder with samples: of each task, those of the last run."""
    folders = sorted({path.parent for path in folder.rglob("samples_*.jsonl")})
    if not folders:
        raise UserError(f"{folder} has no samples of lm-eval. Run lm-eval with --log_samples.")
    return [_of_lm_eval(_last_samples(each), each) for each in folders]


def _last_samples(folder: Path) -> list[Path]:
    """Return the newest file of samples of each task in a folder."""
    named = [(SAMPLES.match(path.name), path) for path in folder.glob("samples_*.jsonl")]
    dated = sorted((found[2] if found else "", found[1] if found else path.stem, path) for found, path in named)
    newest = {task: path for _, task, path in dated}
    return [newest[task] for task in sorted(newest)]


def _read_lm_eval_file(path: Path) -> list[ModelScores]:
    return [_of_lm_eval([path], path.parent)]


def _of_lm_eval(paths: list[Path], folder: Path) -> ModelScores:
    """Return the scores in files of samples, one per task, with what the results beside them say of the run."""
    results = _newest_results(folder)
    scores = ModelScores(results.get("model_name") or folder.name, ", ".join(map(str, paths)))
    for path in paths:
        named = SAMPLES.match(path.name)
        task = named[1] if named else path.stem
        prefix = f"{task}/" if named else ""
        for metric, is_higher_better in results.get("higher_is_better", {}).get(task, {}).items():
            if is_higher_better is not None and metric != PERPLEXITY:
                scores.lower_is_better[metric] = not is_higher_better
        if task in results.get("n-shot", {}):
            scores.settings[f"number of examples ({task})"] = str(results["n-shot"][task])
        for line in _lines(path):
            item = f"{prefix}{line['doc_id']}"
            _add_sample(scores, item, line)
    return scores


def _add_sample(scores: ModelScores, item: str, line: Mapping[str, Any]) -> None:
    """Add a line of lm-eval: an item under one of the filters of its answers."""
    document = line.get("doc")
    asked = (
        {key: value for key, value in document.items() if key not in ANSWERS}
        if isinstance(document, dict)
        else document
    )
    scores.ask(item, text_of(asked))
    chosen = line.get("filter") or "none"
    for metric in line.get(OWN_METRICS) or [key for key, value in line.items() if _is_score(key, value)]:
        name = "log_likelihood" if metric == PERPLEXITY else metric
        scores.add(name if chosen == "none" else f"{name},{chosen}", item, line.get(metric))


def _is_score(key: str, value: Any) -> bool:
    """Return whether a key of a line without the key `metrics`, as older versions wrote, is a metric."""
    return key != "doc_id" and isinstance(value, int | float)


def _newest_results(folder: Path) -> dict[str, Any]:
    """Return the newest results of lm-eval in a folder; empty if there are none."""
    for path in sorted(folder.glob("results_*.json"), reverse=True):
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
    return {}


# --- promptfoo --------------------------------------------------------------------------------------------------------


def _of_promptfoo(results: list[dict[str, Any]], source: str) -> list[ModelScores]:
    """Return the scores of each provider under each prompt."""
    prompts = list(dict.fromkeys(map(_prompt_of, results)))
    found: dict[str, ModelScores] = {}
    for result in results:
        provider = result["provider"]
        name = provider if isinstance(provider, str) else provider.get("label") or provider["id"]
        model = f"{name} prompt {prompts.index(_prompt_of(result)) + 1}" if len(prompts) > 1 else name
        scores = found.setdefault(model, ModelScores(model, source))
        asked = result.get("vars") or (result.get("testCase") or {}).get("vars") or {}
        item = str(result["testIdx"]) if "testIdx" in result else json.dumps(asked, sort_keys=True)
        scores.ask(item, text_of(asked))
        if result.get("failureReason") == FAILED_REQUEST or (result.get("error") and not result.get("gradingResult")):
            scores.failed.add(item)
            continue
        scores.add("score", item, result.get("score"))
        for metric, value in (result.get("namedScores") or {}).items():
            scores.add(metric, item, value)
    return list(found.values())


def _prompt_of(result: Mapping[str, Any]) -> str:
    """Return the template of a prompt, or else the number of its column."""
    prompt = result.get("prompt")
    label = prompt.get("label") if isinstance(prompt, dict) else None
    return str(label or result.get("promptIdx", 0))


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> list[ModelScores]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _of_table(list(csv.DictReader(file)), str(path))


def _read_jsonl(path: Path) -> list[ModelScores]:
    return _of_table(list(_lines(path)), str(path))


def _of_table(rows: list[dict[str, Any]], source: str) -> list[ModelScores]:
    """Return the scores in rows with the columns of NEEDED, and perhaps metric, question and group."""
    found: dict[str, ModelScores] = {}
    for number, row in enumerate(rows, 1):
        if missing := [name for name in NEEDED if row.get(name) in (None, "")]:
            raise UserError(f"{source}: row {number} has no {missing[0]}. Each row needs {', '.join(NEEDED)}.")
        model, item = str(row["model"]), str(row["item"])
        scores = found.setdefault(model, ModelScores(model, source))
        if not scores.add(str(row.get("metric") or "score"), item, row["score"]):
            raise UserError(f"{source}: the score of row {number} is {row['score']!r}. Write a number.")
        scores.ask(item, str(row.get("question") or ""))
        if row.get("group"):
            scores.groups[item] = str(row["group"])
    return list(found.values())
