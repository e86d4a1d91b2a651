"""A model whose weights are read from its files one module at a time, so that no process needs to hold all of them.

Until its module is filled, a weight is a single zero that is expanded to the weight's shape.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from ft_pipeline.models.compute_dtype import compute_dtype
from ft_pipeline.models.load import load_model

_SINGLE_FILE, _INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class LazyWeights:
    """The weights of a model that have not been read yet."""

    def __init__(self) -> None:
        self._unread: dict[Tensor, tuple[Path, str]] = {}

    def load_model(
        self,
        folder: Path,
        device: str,
        *,
        quantization: None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
    ) -> Any:
        """Return load.load_model on the CPU, without its weights, in `dtype` (None: the compute type of `device`).

        Buffers, tied weights and the order of the parameters are those of load_model. If transformers would convert the
        weights of the files (a mixture of experts in separate matrices, other names), they are read at once.
        """
        dtype = dtype or compute_dtype(device)
        files = _weight_files(folder)
        model = _without_weights(folder, files, dtype, attention)
        names = dict(model.named_parameters())
        if names.keys() != files.keys():
            return load_model(folder, "cpu", dtype=dtype, attention=attention)
        self._unread = {parameter: (files[name], name) for name, parameter in names.items()}
        return model

    def fill(self, module: Any) -> None:
        """Read the weights of a module and of the modules in it, except those that were read before."""
        for parameter in module.parameters():
            if (place := self._unread.pop(parameter, None)) is not None:
                parameter.data = _read(*place).to(parameter.dtype)


def _without_weights(folder: Path, files: dict[str, Path], dtype: torch.dtype, attention: str | None) -> Any:
    """Return the model with one zero in place of each tensor of the files."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model_class = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    zeros = {name: torch.zeros((), dtype=dtype).expand(_shape(path, name)) for name, path in files.items()}
    model = model_class.from_pretrained(
        None, config=config, state_dict=zeros, dtype=dtype, device_map={"": "cpu"}, attn_implementation=attention
    )
    model.config.name_or_path = model.name_or_path = str(folder)  # as from_pretrained sets them
    return model.eval()


def _weight_files(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor of a model folder, as transformers chooses them."""
    if (single := folder / _SINGLE_FILE).is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    index = json.loads((folder / _INDEX_FILE).read_text(encoding="utf-8"))
    return {name: folder / file for name, file in index["weight_map"].items()}


def _shape(path: Path, name: str) -> list[int]:
    with safe_open(path, framework="pt") as file:
        shape: list[int] = file.get_slice(name).get_shape()
        return shape


def _read(path: Path, name: str) -> Tensor:
    """Return a tensor of a file in memory of its own: the pages of the file are released."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name).clone()
