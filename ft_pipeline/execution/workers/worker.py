"""The entry point of every worker process; the supervisor starts it.

    python -m ft_pipeline.execution.workers.worker JOB_JSON

Reads the job, runs the function of its kind, and writes `result.json` or `error.json` next to the job. Exit codes:
0 done, 3 an error that the user can fix, 1 any other error, 130 interrupted. If several processes run one job
(rank_launcher.py), each runs this module, and rank 0 reports.
"""

import atexit
import contextlib
import importlib
import json
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.execution.workers import process_guard
from ft_pipeline.execution.workers.late_compiler import compile_late
from ft_pipeline.execution.workers.reporting import PROGRESS_RECORD, NullReporter, open_reporter
from ft_pipeline.execution.workers.worker_variables import secrets_of_job
from ft_pipeline.job import Job, Rank, Reporter
from ft_pipeline.store.atomic_files import describe_write_error

WORKERS = {
    "teacher_distributions": "ft_pipeline.evaluation.scoring.teacher_distributions:run",
    "evaluation_tasks": "ft_pipeline.evaluation.scoring.task_files:copy_task_files",
    "teacher_scores": "ft_pipeline.evaluation.rivals.score:run",
    "contender_scores": "ft_pipeline.evaluation.rivals.score:run",
    "word_model": "ft_pipeline.evaluation.rivals.word_model:run",
    "rival_scores": "ft_pipeline.evaluation.rivals.score:run",
    "calibrated_scores": "ft_pipeline.evaluation.rivals.score:run",
}
"""Kind of artifact → `module:function` that builds it in a worker process, for those that no step is named after."""
RESULT_FILE = "result.json"
ERROR_FILE = "error.json"
RANK = "FT_RANK"
"""Environment variable of a process that shares its job with others: the fields of job.Rank as JSON."""
USER_ERROR = 3
"""Exit code after an error that the user can fix."""
INTERRUPTED = 130
"""Exit code after an interrupt."""
LOST = 75
"""Exit code of a process that represents a worker on a cluster, after the cluster took its machine away."""


def run(arguments: Sequence[str], workers: Mapping[str, str] = WORKERS) -> NoReturn:
    """Run `main` as the only work of this process, and exit without finalizing the interpreter.

    C++ threads may still run, such as gloo's after several processes trained. A thread that frees a tensor during
    finalization aborts the process, although all its work is done (pytorch/pytorch#190489).
    """
    code = 1

    def exit_at_once() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    compile_late()
    atexit.register(exit_at_once)  # registered first, so called last: after the exit handlers of trackers
    code = main(arguments, workers)
    sys.exit(code)


def main(arguments: Sequence[str], workers: Mapping[str, str] = WORKERS) -> int:
    """Run the job in the file that `arguments` names; return the exit code. workers: kind → `module:function`."""
    job_file = Path(arguments[0])
    try:
        if RANK in os.environ:
            process_guard.join_guard()
        else:
            process_guard.fork_guarded_worker()  # first: the guard must be a small process
        return _run_job(job_file, workers, own_rank())
    except KeyboardInterrupt:
        return INTERRUPTED
    except UserError as error:
        return report_user_error(job_file, str(error))
    except Exception as error:
        message = describe_write_error(error)
        return report_user_error(job_file, message) if message else _crash(job_file, error)


def own_rank() -> Rank:
    """Return the rank of this process. A process that runs its job alone is rank 0 of 1."""
    fields = json.loads(os.environ.get(RANK, "{}"))
    return Rank(**{**fields, "meeting": Path(fields["meeting"])}) if fields else Rank()


def _run_job(job_file: Path, workers: Mapping[str, str], rank: Rank) -> int:
    from ft_pipeline.store.hashing import plain_json

    fields = json.loads(job_file.read_text(encoding="utf-8"))
    started = time.monotonic()
    function = _worker_function(fields["kind"], workers, fields["device"])
    if rank.number > 0:
        function(_job(fields, NullReporter(), rank))
        return 0
    with open_reporter(Path(fields["work"]) / PROGRESS_RECORD) as report:
        summary = function(_job(fields, report, rank))
    result = {"summary": summary, "seconds": time.monotonic() - started, "peak_rss_bytes": peak_rss_bytes()}
    (job_file.parent / RESULT_FILE).write_text(json.dumps(plain_json(result)), encoding="utf-8")
    return 0


def _job(fields: dict[str, Any], report: Reporter, rank: Rank) -> Job:
    """Create the job, and seed the random generators of the modules that are imported by now."""
    _require_leased_gpu(fields["device"])
    _seed(fields["seed"])
    return Job(
        kind=fields["kind"],
        config=fields["config"],
        inputs={name: Path(folder) for name, folder in fields["inputs"].items()},
        out=Path(fields["out"]),
        work=Path(fields["work"]),
        device=fields["device"] if fields["device"] == "cpu" else f"cuda:{rank.number}",
        report=report,
        handling=fields["handling"],
        shared=Path(fields["shared"]) if fields["shared"] else None,
        rank=rank,
        secrets=secrets_of_job(fields.get("variables", ())),
    )


def _worker_function(kind: str, workers: Mapping[str, str], device: str = "cpu") -> Callable[[Job], dict[str, Any]]:
    if kind in workers:
        module, _, name = workers[kind].partition(":")
        return getattr(importlib.import_module(module), name)
    from ft_pipeline.steps import load_step, modules

    step = load_step(kind) if kind in modules() else None
    if step is None or step.run is None:
        raise ValueError(f"no worker function for {kind!r}; known: {', '.join(sorted(workers))} and steps/")
    if (
        step.gpu is True or device != "cpu"
    ):  # `run` imports it, but only after this process has looked at its GPU and seeded it
        importlib.import_module("torch")
    return step.run


def _require_leased_gpu(device: str) -> None:
    """Raise UserError if a GPU was leased, but the torch that the job's module imported cannot use it."""
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None or torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
        reason = "it finds no CUDA device"
    except Exception as error:
        reason = first_line(error).rstrip(".")
    raise UserError(
        f"This step has a GPU, but PyTorch cannot use it: {reason}. Install the driver and a PyTorch that fit "
        "together, or set CUDA_VISIBLE_DEVICES='' to use the CPU."
    )


def _seed(seed: int) -> None:
    """Seed Python's generator, and those of numpy and torch if the job's module imported them at its top."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def report_user_error(job_file: Path, message: str) -> int:
    """Write an error that the user can fix to stderr and for the supervisor; return the exit code."""
    with contextlib.suppress(OSError):  # a full disk accepts no line
        sys.stderr.write(f"{message}\n")
    return report_error(job_file, message, USER_ERROR)


def _crash(job_file: Path, error: Exception) -> int:
    with contextlib.suppress(OSError):
        traceback.print_exc()
    return report_error(job_file, f"{type(error).__name__}: {error}", 1)


def report_error(job_file: Path, message: str, code: int) -> int:
    """Write the message for the supervisor; return `code`.

    Of several ranks, only the first one to fail knows the cause: the others merely lost that rank.
    """
    with contextlib.suppress(OSError), (job_file.parent / ERROR_FILE).open("x", encoding="utf-8") as file:
        json.dump({"message": message}, file)
    return code


def peak_rss_bytes() -> int:
    """Return the peak memory of this process. getrusage would also count the process that forked it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    run(sys.argv[1:])
