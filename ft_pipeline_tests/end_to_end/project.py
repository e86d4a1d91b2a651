"""A small project folder: the worked example cut down, with a tiny model and few steps."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.cli import main
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.tables.formats.registry import FORMATS, OPTIONAL
from ft_pipeline_tests.forked_process import ForkedProcess
from ft_pipeline_tests.tiny import tiny_model

KEEP = {
    "alpaca": ("support_01.jsonl", "legacy_export.jsonl"),
    "sharegpt": ("conversations.jsonl",),
    "text": ("help_centre.jsonl",),
    "preferences": ("pairs.jsonl",),
    "feedback": (),
    "unlabelled": ("inbox.jsonl",),
}
ROWS = {"unlabelled": 8, "sharegpt": 12}


@dataclass(frozen=True)
class Finished:
    """A small project after its first `ft run`."""

    root: Path


@dataclass(frozen=True)
class FirstRun(Finished):
    """A small project that was run now."""

    run: subprocess.CompletedProcess[str]


def small_project(root: Path, *, epochs: int = 1, variants: bool = True) -> Path:
    """Write the project folder `root`: some 100 alpaca rows, a random two-layer model as base and teacher.

    variants: whether prompt variants are scored in addition to the plain model.
    """
    scaffold.create(root, example=True)
    for data_format, names in KEEP.items():
        for path in (root / "data" / "raw" / data_format).glob("*.jsonl"):
            if path.name not in names:
                path.unlink()
            elif data_format in ROWS:
                cut(path, ROWS[data_format])
    for path in (root / "data" / "general").glob("*.jsonl"):
        cut(path, 8)
    model = tiny_model(root / "models" / "tiny", positions=8192)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["prompting"]["variants"]["few_shot"]["few_shot"] = 2
    if not variants:
        settings["prompting"]["variants"] = {}
    settings["teacher"].update(model=str(model), few_shot=1, max_new_tokens=12)
    settings["evaluation"].update(max_new_tokens=8, max_test_rows=8)
    # Eight test rows and questions show nothing else, and no answer of a random model is usable.
    rails = dict.fromkeys(("cut_off", "repetition", "empty", "holes", "refusal", "format"))
    settings.setdefault("promotion", {}).update(forgetting_margin=0.5, rails=rails, min_test_rows=2)
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    write_experiment(root, "qlora", model, epochs=epochs)
    return root


def first_run(folder: Path, *, variants: bool = True, forked: bool = False) -> FirstRun:
    """Run a small project for the first time. Its model is named relative to the project folder.

    forked: in a fork of the test, see `ft_forked`.
    """
    root = small_project(folder / "shop", variants=variants)
    for path in (root / "project.yaml", *(root / "experiments").glob("*.yaml")):
        path.write_text(path.read_text(encoding="utf-8").replace(f"{root}/", "./"), encoding="utf-8")
    return FirstRun(root, (ft_forked if forked else ft)(root, "run", "--experiment", "qlora"))


def write_experiment(
    root: Path, name: str, model: Path, *, technique: str = "qlora", epochs: int = 1, **training: Any
) -> None:
    """Write experiments/NAME.yaml for the tiny model; training: further keys of that section."""
    experiment = {
        "base_model": str(model),
        "technique": technique,
        "training": {
            "num_train_epochs": epochs,
            "max_length": 8192,
            "eval_steps": 4,
            "per_device_train_batch_size": 8,
            **training,
        },
    }
    (root / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")


def cut(path: Path, rows: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:rows]), encoding="utf-8")


def change_yaml(path: Path, **sections: dict[str, Any]) -> None:
    """Change keys in the sections of a YAML file."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, values in sections.items():
        settings.setdefault(name, {}).update(values)
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")


def current(root: Path, asset: str, experiment: str | None = None) -> Artifact:
    """The artifact of the last materialization of an asset."""
    store = ArtifactStore(root / "data" / "store")
    pointer = AssetPointers(store.root).read(asset, experiment)
    assert pointer is not None
    return store.require(pointer.kind, pointer.fingerprint)


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "FT_PROJECT": str(root), "DAGSTER_HOME": str(root / "dagster_home"), "HF_HUB_OFFLINE": "1"}


def log_of(process: psutil.Process) -> Path:
    """The file that a process writes its output to."""
    return Path(f"/proc/{process.pid}/fd/1").readlink()


def workers(root: Path) -> list[psutil.Process]:
    """The project's running worker processes: the guards first, then the workers themselves."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            log = log_of(process)
            if log.name == "worker.log" and log.is_relative_to(root / "data" / "store"):
                processes.append(process)
    return sorted(processes, key=lambda process: process.ppid() in {worker.pid for worker in processes})


def ft(root: Path, *arguments: str, timeout: float = 900, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `ft` as a user does, in a separate process; more: environment variables to add."""
    command = [str(Path(sys.executable).parent / "ft"), *arguments]
    env = environment(root) | more
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def ft_forked(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ft` in a process of its own that has the graph of the test, without its imports. Its workers are real."""
    with contextlib.chdir(root):
        process = ForkedProcess(
            "ft_pipeline_tests.commands_in_turn", "--print", shlex.join(arguments), **environment(root)
        )
    output, errors = process.communicate(900)
    return subprocess.CompletedProcess(["ft", *arguments], process.wait(), output, errors)


def ft_json(root: Path, *arguments: str) -> Any:
    """The JSON document that `ft … --json` writes; the command must succeed."""
    done = ft(root, *arguments, "--json")
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return json.loads(done.stdout)


IN_ONE_PROCESS = """
import contextlib, io, json, sys
from ft_pipeline.cli import main
done = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, code, out, err = ["ft", *arguments], 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    done.append([code, out.getvalue(), err.getvalue()])
sys.__stdout__.write(json.dumps(done))
"""


def ft_in_one_process(
    root: Path, *commands: tuple[str, ...], timeout: float = 900
) -> list[subprocess.CompletedProcess[str]]:
    """Several `ft` after each other in one process, for speed: most of a command's time is its start."""
    arguments = json.dumps(commands)
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, arguments],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [
        subprocess.CompletedProcess(command, *told)
        for command, told in zip(commands, json.loads(done.stdout), strict=True)
    ]


def ft_here(root: Path, *commands: tuple[str, ...]) -> list[subprocess.CompletedProcess[str]]:
    """Several `ft` after each other in the process of the test, which has the graph: for commands that only tell.

    Where the process counts (signals, workers, what is imported), take `ft` or `ft_in_one_process`.
    """
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(root))
        patch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
        patch.chdir(root)
        for command in commands:
            patch.setattr(sys, "argv", ["ft", *command])
            code: Any = 0
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
                try:
                    main()
                except SystemExit as end:
                    code = end.code or 0
            done.append(subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue()))
    return done


def ft_here_json(root: Path, *commands: tuple[str, ...]) -> list[tuple[int, Any]]:
    """Several `ft … --json` in the process of the test: (exit code, document or None) of each."""
    done = ft_here(root, *((*command, "--json") for command in commands))
    return [(each.returncode, json.loads(each.stdout) if each.stdout.strip() else None) for each in done]


def ft_in_turn(root: Path, *commands: tuple[str, ...], timeout: float = 900) -> list[tuple[int, Any]]:
    """Several `ft … --json` in one process: (exit code, document or None) of each."""
    done = ft_in_one_process(root, *((*command, "--json") for command in commands), timeout=timeout)
    return [(each.returncode, json.loads(each.stdout) if each.stdout.strip() else None) for each in done]


SHARED = {
    *(f"raw_{name}" for name in FORMATS),
    *FORMATS,
    *("quarantine", "conversations", "teacher_answers", "distilled", "worth"),
    *("ratings", "judgements", "comparison", "decision", "recommendation", "champion", "model_card", "report"),
}


PER_EXPERIMENT = {
    *("experiment", "base_model", "training_data", "memory_estimate", "adapter", "merged_model", "gguf"),
    *("searched_prompt", "prompt_baseline", "scores", "gguf_scores"),
}


WITHOUT_FILES = [name for name in OPTIONAL if not KEEP.get(name)]
UNUSED = {
    *(f"raw_{name}" for name in WITHOUT_FILES),
    *WITHOUT_FILES,
    *("worth", "ratings", "judgements", "searched_prompt", "gguf", "gguf_scores"),
}
"""What a first run leaves out: neither settings nor files of the small project ask for it."""


WITHOUT_ASSET = {"word_model", "rival_scores"}
"""The kinds of the artifacts that a comparison makes before it runs: answers without a language model."""


def run(root: Path, *assets: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).parent / "ft"),
        "run",
        "--json",
        "--experiment",
        "qlora",
        "--select",
        ",".join(assets),
    ]
    return subprocess.run(
        command,
        cwd=root,
        env=environment(root) | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def copy_of(finished: Finished, folder: Path) -> Path:
    """A copy of the finished project that a test may change."""
    return Path(shutil.copytree(finished.root, folder / "shop"))
