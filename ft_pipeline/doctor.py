"""Checks of this machine and of the project folder, each with its fix (`ft doctor`)."""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.gpus import query_nvidia_smi, visible_gpus
from ft_pipeline.execution.workers.launchers import LAUNCHER, launcher_for, worker_environment
from ft_pipeline.models import compute_setting
from ft_pipeline.project import Project
from ft_pipeline.store.provenance import NOT_INSTALLED, installed_version
from ft_pipeline.store.signing import ID_DIGITS, find_key, key_id_of, read_public_key

NEEDED_DISK_GB = 3.0
"""With less free space, the check of the disk fails."""
NEEDED_MEMORY_GB = 6.0
"""Free memory that the worked example needs. With less, a warning is shown."""
MUCH_FASTER = 2.0
"""A warning is shown if another type is at least this many times as fast as the compute type: measurements vary."""
UI_PORT = 3000
PACKAGES = (
    "dagster",
    "dagster-webserver",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "lm-eval",
    "duckdb",
    "pandera",
)
"""Packages whose versions are shown."""
OPTIONAL_PACKAGES = ("trl",)
"""The same, of extras that nothing but the benchmarks needs."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    """Name of the check for readers, such as `embedded model`."""
    status: Literal["ok", "warning", "problem"]
    seen: str
    """What the check found."""
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More keys of its JSON: values that a program would otherwise have to parse from `seen`."""

    @property
    def name(self) -> str:
        """The name of the check for programs, such as `embedded_model`."""
        return self.what.lower().replace(" ", "_")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "status": self.status,
            "seen": self.seen,
            "fix": self.fix,
            **self.facts,
        }


def examine(project: Project) -> Iterator[Finding]:
    """Yield the findings on this machine and project folder, in the order that a new user needs. The compute type
    takes some seconds."""
    checks: list[Callable[[Project], Finding]] = [
        _check_python,
        _check_packages,
        _check_gpu,
        _check_compute,
        _check_launcher,
        _check_memory,
        _check_disk,
        _check_embedded_model,
        _check_settings,
        _check_experiments,
        _check_signing_key,
        _check_instance,
        _check_port,
    ]
    return (check(project) for check in checks)


def _check_python(_: Project) -> Finding:
    return Finding("Python", "ok", sys.version.split()[0])


def _check_packages(_: Project) -> Finding:
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        return Finding("packages", "problem", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    versions = {name: installed_version(name) or NOT_INSTALLED for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    return Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _is_installed(name: str) -> bool:
    return installed_version(name) is not None


def _check_gpu(_: Project) -> Finding:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    output, error = query_nvidia_smi(command)
    if error:
        return Finding("GPU", "warning", f"nvidia-smi: {error}", "repair the driver, or continue on the CPU")
    return Finding("GPU", "ok", "; ".join(output.splitlines()) or "none; everything runs on the CPU")


def _check_compute(_: Project) -> Finding:
    """Check the type that models compute in, as a worker on this machine would choose it."""
    environment = worker_environment() | ({} if visible_gpus() else {"CUDA_VISIBLE_DEVICES": ""})
    try:
        answer = compute_setting.query_compute_dtype(measure=True, environment=environment)
    except UserError as error:
        problem, _separator, fix = str(error).partition(". ")
        return Finding("compute", "problem", problem, fix, {"dtype": None, "gflops": {}})
    dtype, gflops = answer["dtype"], {name: round(speed, 1) for name, speed in answer["gflops"].items()}
    speeds = ", ".join(f"{name} {speed:.0f} GFLOP/s" for name, speed in gflops.items())
    seen = f"{dtype} on {answer['device']}, because {answer['reason']}; measured: {speeds}"
    facts = {"dtype": dtype, "gflops": gflops}
    fastest = max(gflops, key=lambda name: gflops[name])
    if gflops[fastest] < MUCH_FASTER * gflops[dtype]:
        return Finding("compute", "ok", seen, facts=facts)
    is_requested = compute_setting.requested_dtype() != "auto"
    variable = compute_setting.COMPUTE_DTYPE_VARIABLE
    fix = f"unset {variable}" if is_requested else f"try {variable}={fastest}"
    return Finding("compute", "warning", seen, f"{fix}: {fastest} is much faster here", facts)


def _check_launcher(_: Project) -> Finding:
    try:
        launcher_for("adapter", DeviceNeed())
    except UserError as error:
        return Finding("launcher", "problem", str(error), "choose a launcher from docs/deploy.md")
    name = os.environ.get(LAUNCHER) or "local"
    if name == "ray" and not _is_installed("ray"):
        return Finding("launcher", "problem", "ray is not installed", "pip install 'ft-pipeline[ray]'")
    return Finding("launcher", "ok", name)


def _check_memory(_: Project) -> Finding:
    free = psutil.virtual_memory().available / 1e9
    seen = f"{free:.1f} GB free, {os.cpu_count()} cores"
    if free < NEEDED_MEMORY_GB:
        return Finding(
            "memory", "warning", seen, f"close other programs: the example needs up to {NEEDED_MEMORY_GB:.0f} GB"
        )
    return Finding("memory", "ok", seen)


def _check_disk(project: Project) -> Finding:
    free = shutil.disk_usage(project.root).free / 1e9
    if free < NEEDED_DISK_GB:
        return Finding(
            "disk", "problem", f"{free:.1f} GB free", f"free {NEEDED_DISK_GB:.0f} GB: models are stored in data/store"
        )
    return Finding("disk", "ok", f"{free:.1f} GB free in {project.root}")


def _check_embedded_model(_: Project) -> Finding:
    from ft_pipeline.models.base_model import find_embedded

    try:
        model = find_embedded()
    except UserError as error:
        return Finding("embedded model", "warning", "not installed", str(error))
    return Finding("embedded model", "ok", f"{model.name}, {model.stat().st_size / 1e6:.0f} MB")


def _check_settings(project: Project) -> Finding:
    try:
        settings = project.settings
    except UserError as error:
        return Finding("project.yaml", "problem", str(error), "correct the line")
    return Finding("project.yaml", "ok", settings.name)


def _check_experiments(project: Project) -> Finding:
    problems = []
    for name in project.experiment_names():
        try:
            project.experiment(name)
        except UserError as error:
            problems.append(str(error))
    problems += project.misnamed_files().values()
    if problems:
        return Finding("experiments", "problem", problems[0], "correct the line; the other experiments still run")
    return Finding("experiments", "ok", ", ".join(project.experiment_names()) or "none")


def _check_signing_key(project: Project) -> Finding:
    public_pem = read_public_key(project.store)
    if public_pem is None:
        new = not (project.store / "artifacts").exists()
        seen = "none yet; the first `ft run` creates it" if new else "none: the store is not signed"
        return Finding("signing key", "ok" if new else "warning", seen, "" if new else "ft keys new --reason TEXT")
    try:
        key = find_key(project.store)
    except UserError as error:
        return Finding("signing key", "problem", str(error), "restore it, or ft keys new --reason TEXT")
    return Finding("signing key", "ok", f"{key_id_of(public_pem)[:ID_DIGITS]} in {key.path if key else ''}")


def _check_instance(project: Project) -> Finding:
    if not (project.dagster_home / "dagster.yaml").is_file():
        return Finding(
            "Dagster instance",
            "problem",
            f"no {project.dagster_home / 'dagster.yaml'}",
            "create a project with `ft init DIR`",
        )
    return Finding("Dagster instance", "ok", str(project.dagster_home))


def _check_port(_: Project) -> Finding:
    with socket.socket() as probe:
        is_taken = probe.connect_ex(("127.0.0.1", UI_PORT)) == 0
    if is_taken:
        return Finding(
            "port", "warning", f"{UI_PORT} is taken", f"unless the UI is running already: `ft ui --port {UI_PORT + 1}`"
        )
    return Finding("port", "ok", f"{UI_PORT} is free")
