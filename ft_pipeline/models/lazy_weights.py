"""A model whose weights are read from its files one module at a time, so that no process needs to hold all of them.

Until its module is filled, a weight is a single zero that is expanded to the weight's shape. A 4-bit weight is
quantized when it is read.
"""

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Params4bit
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations import replace_with_bnb_linear
from transformers.pytorch_utils import Conv1D

from ft_pipeline.models.compute_dtype import compute_dtype
from ft_pipeline.models.load import four_bit_config, load_model
from ft_pipeline.models.stored_tensors import StoredTensor, tensor_names

_SINGLE_FILE, _INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class LazyWeights:
    """The weights of a model that have not been read yet."""

    def __init__(self) -> None:
        self._unread: dict[Tensor, StoredTensor] = {}
        self._device = "cpu"

    def load_model(
        self,
        folder: Path,
        device: str,
        *,
        quantization: dict[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
    ) -> Any:
        """Return load.load_model on the CPU, without its weights, in `dtype` (None: the compute type of `device`).

        Buffers, tied weights and the order of the parameters are those of load_model. If transformers would convert the
        weights of the files (a mixture of experts in separate matrices, other names), they are read at once.
        """
        dtype = dtype or compute_dtype(device)
        self._device = device
        stored = _stored_weights(folder)
        model = _without_weights(folder, stored, dtype, attention)
        transposes = quantization is not None and any(isinstance(module, Conv1D) for module in model.modules())
        if transposes or dict(model.named_parameters()).keys() != stored.keys():
            return load_model(folder, "cpu", quantization=quantization, dtype=dtype, attention=attention)
        if (config := four_bit_config(quantization, dtype)) is not None:
            _use_four_bits(model, config)
        self._unread = {parameter: stored[name] for name, parameter in model.named_parameters()}
        return model

    def fill(self, module: Any) -> None:
        """Read the weights of a module and of the modules in it, except those that were read before. 4-bit weights are
        quantized on the device of load_model."""
        for child in module.modules():
            for name, parameter in list(child.named_parameters(recurse=False)):
                if (tensor := self._unread.pop(parameter, None)) is None:
                    continue
                weight = tensor.read().to(parameter.dtype)
                if isinstance(parameter, Params4bit):
                    setattr(child, name, Params4bit(weight, **parameter.__dict__).to(self._device))
                else:
                    parameter.data = weight


def as_plain_weights(module: Any, device: str) -> None:
    """Replace the 4-bit weights of a module by plain parameters, which can be sharded. bitsandbytes finds their scales
    in the linear layers, on `device`."""
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            if isinstance(parameter, Params4bit):
                parameter.quant_state.to(device)
                child.quant_state = parameter.quant_state
                setattr(child, name, nn.Parameter(parameter.data, requires_grad=False))


def _use_four_bits(model: Any, config: BitsAndBytesConfig) -> None:
    """Replace the linear layers of a model without weights, except the head, by 4-bit ones without weights."""
    head = model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head]
    weights = {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    biases = {name: module.bias for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    replace_with_bnb_linear(model, modules_to_not_convert=heads, quantization_config=config)
    for name in weights.keys() - set(heads):
        layer = model.get_submodule(name)
        layer.weight = Params4bit(weights[name].data, **layer.weight.__dict__)
        layer.bias = biases[name]
    model.is_loaded_in_4bit = True  # PEFT reads it


def _without_weights(folder: Path, stored: dict[str, StoredTensor], dtype: torch.dtype, attention: str | None) -> Any:
    """Return the model with one zero in place of each stored tensor."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model_class = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    zeros = {name: torch.zeros((), dtype=dtype).expand(tensor.shape) for name, tensor in stored.items()}
    model = model_class.from_pretrained(
        None, config=config, state_dict=zeros, dtype=dtype, device_map={"": "cpu"}, attn_implementation=attention
    )
    model.config.name_or_path = model.name_or_path = str(folder)  # as from_pretrained sets them
    return model.eval()


def _stored_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a model folder by name, in the files that transformers chooses."""
    if (single := folder / _SINGLE_FILE).is_file():
        return {name: StoredTensor([single], name) for name in tensor_names(single)}
    index = json.loads((folder / _INDEX_FILE).read_text(encoding="utf-8"))
    return {name: StoredTensor([folder / file], name) for name, file in index["weight_map"].items()}
