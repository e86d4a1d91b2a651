"""Facts for the manifest: the code, the packages, the machine and the user that built an artifact."""

import hashlib
import os
import platform
import pwd
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ft_pipeline
from ft_pipeline.store.hashing import sha256_of_file

PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "dagster",
    "datasets",
    "duckdb",
    "gguf",
    "lm-eval",
    "numpy",
    "pandas",
    "pandera",
    "peft",
    "pyarrow",
    "sacrebleu",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
"""Packages that can change a result, and trl, with which the benchmarks compare."""
NOT_INSTALLED = "not installed"
"""How a package without a version is shown."""


@lru_cache(maxsize=1)
def code() -> dict[str, Any]:
    """Return this package's version, its source's hash, and the git commit it runs from (null in an installed wheel).

    `dirty`: whether the source differs from that commit. The hash then still identifies the source.
    """
    folder = Path(ft_pipeline.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD") if _is_tracked(folder) else None
    changes = _git(folder, "status", "--porcelain", "--", ".") if commit else None
    return {
        "version": installed_version("ft-pipeline"),
        "sha256": _source_sha256(folder),
        "commit": commit,
        "dirty": bool(changes) if changes is not None else None,
    }


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Return the versions of Python and of the installed ones of PACKAGES. Nothing is imported."""
    versions = {"python": platform.python_version()} | {name: installed_version(name) for name in PACKAGES}
    return {name: installed for name, installed in versions.items() if installed}


@lru_cache(maxsize=1)
def hardware() -> dict[str, Any]:
    """Return the machine's platform, processor, cores that this process may use, and memory in bytes."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def user_name() -> str:
    """Return the name of the operating system's user whose process this is; `uid N` if it has none (some containers).

    It comes from the user id and the system's list of users, not from the environment, which anybody can set.
    """
    return _name_of(os.getuid())


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _source_sha256(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of the package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def _is_tracked(folder: Path) -> bool:
    """Return whether git tracks this package. A wheel in another project's repository must not report its commit."""
    return bool(_git(folder, "ls-files", "--", "__init__.py"))


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None if it fails or git is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the name of the processor's model, or as much as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
