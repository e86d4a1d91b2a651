"""Shared by the model tests: token ids, a quantization, and the dtypes that packed layers support on this machine."""

import pytest
import torch

from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline.models.compute_dtype import onednn_has_bf16
from ft_pipeline_tests.training.subject import Listener

IDS = torch.tensor([[5, 9, 11, 40, 7, 8], [30, 31, 32, 33, 34, 35]])
NF4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
NEEDS_BF16 = pytest.mark.skipif(not onednn_has_bf16(), reason="oneDNN has no bf16 kernels for this CPU")
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=NEEDS_BF16)]


def convert(folder, model, revision=None):
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    return out, base_model.run(
        Job("base_model", {"model": str(model), "revision": revision}, {}, out, folder, "cpu", Listener())
    )
