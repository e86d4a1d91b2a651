"""Which environment variables a worker gets: an allow-list, because the code of custom metrics and tasks runs in it.

A worker gets what any program needs, the settings of the libraries that it uses, the variables that the settings of its
own job name (the key of an endpoint, the token of the hub), and those that FT_WORKER_ENV names. This is no sandbox: a
worker runs as the same user, who can read the files and the processes of the rest.
"""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping

from ft_pipeline.errors import UserError

WORKER_ENV = "FT_WORKER_ENV"
"""Environment variable: further names for all workers, separated by spaces or commas. A name may end in `*`.

It is in the environment, not in project.yaml: the authors of the project's code must not be able to change it, and
machines have different variables.
"""
SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "HOSTNAME", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("TMPDIR", "TMP", "TEMP", "XDG_*", "LD_*", "DYLD_*", "LIBRARY_PATH", "CPATH", "CC", "CXX"),
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_*", "MALLOC_*", "FT_LEASE_DIR", "FT_PROJECT"),
)
NETWORK = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
DEVICES = ("CUDA_*", "NVIDIA_*", "CUBLAS_*", "CUDNN_*", "NCCL_*", "GLOO_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*")
LIBRARIES = (
    *("ATEN_*", "ONEDNN_*", "DNNL_*", "OPENBLAS_*", "VECLIB_*", "NUMEXPR_*", "RAYON_*", "TOKENIZERS_*"),
    *("TORCH*", "PYTORCH_*", "TRITON_*", "HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "DATASETS_*", "ACCELERATE_*"),
    *("BITSANDBYTES_*", "BNB_*", "VLLM_*", "LLAMA_*", "GGML_*"),
)
LAUNCHERS = (
    *("SLURM_*", "PMI_*", "PMIX_*", "OMPI_*", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"),
    *("LOCAL_WORLD_SIZE", "NODE_RANK", "TORCHELASTIC_*"),
    *("FT_COMPUTE_DTYPE", "FT_NUM_PROCESSES", "FT_ACCELERATE_CONFIG", WORKER_ENV),
)
ALLOWED = (*SYSTEM, *NETWORK, *DEVICES, *LIBRARIES, *LAUNCHERS)
SECRET_WORDS = frozenset(
    ("AUTH", "CREDENTIAL", "CREDENTIALS", "JWT", "KEY", "PASS", "PASSWD", "PASSWORD", "SECRET", "TOKEN")
)
"""A name with one of these words is a secret, whatever it begins with: VLLM_API_KEY, HF_TOKEN, SLURM_JWT."""


def allowed_variables(environment: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables of `environment` that a worker gets. named: further names or patterns."""
    exact = (*named, *_operator_patterns())
    return {
        name: value
        for name, value in environment.items()
        if _matches(name, exact) or (_matches(name, ALLOWED) and SECRET_WORDS.isdisjoint(name.upper().split("_")))
    }


def secrets_of_job(named: Iterable[str]) -> tuple[str, ...]:
    """Return the names among `named` that only this job gets, because FT_WORKER_ENV does not name them."""
    patterns = _operator_patterns()
    return tuple(name for name in named if not _matches(name, patterns))


def check_operator_patterns() -> None:
    """Raise UserError if FT_WORKER_ENV contains something that is not a name."""
    for name in _operator_patterns():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name):
            raise UserError(
                f"{WORKER_ENV} contains {name!r}, which is not the name of an environment variable. Write names, "
                "separated by spaces, such as: MY_TOKEN MY_SETTINGS_*"
            )


def _operator_patterns() -> list[str]:
    return os.environ.get(WORKER_ENV, "").replace(",", " ").split()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
