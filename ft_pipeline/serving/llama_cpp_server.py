"""Serves a GGUF file with llama.cpp on 127.0.0.1, until the process is ended.

python -m ft_pipeline.serving.llama_cpp_server SETTINGS.json PORT
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import xllamacpp

_ERRORS_ONLY = 1


def start(settings: dict[str, Any], port: int) -> xllamacpp.Server:
    """Load the model, and answer requests in other threads. Raises RuntimeError if the file cannot be loaded."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["gguf"]
    params.model_alias = {settings["alias"]}
    params.offline = True
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.cors_origins = "localhost"
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = _ERRORS_ONLY
    params.n_ctx = settings["context"]  # 0: the model's
    params.n_parallel = settings["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ["OMP_NUM_THREADS"].partition(",")[0])
    params.use_jinja = True
    params.chat_template = Path(settings["template"]).read_text(encoding="utf-8")
    params.prefill_assistant = False  # an assistant's last turn is not continued, as in scoring
    # Answers are returned as the model wrote them, with control tokens: the server in front reads them.
    params.force_pure_content_parser = True
    params.special = True
    params.sampling.temp = 0.0
    return xllamacpp.Server(params)


if __name__ == "__main__":
    try:
        server = start(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2]))
    except (RuntimeError, ValueError) as error:
        sys.exit(f"llama.cpp: {error}")
    while True:
        signal.pause()  # SIGTERM ends the process
