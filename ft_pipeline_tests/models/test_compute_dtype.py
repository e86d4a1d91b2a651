"""The compute type: the fast one on this CPU, the same in every process, or the choice of the user."""

import json
import os

import pytest
import torch

from ft_pipeline.errors import UserError
from ft_pipeline.models import compute_dtype as compute
from ft_pipeline.models import serving_engines
from ft_pipeline.models.compute_dtype import compute_dtype, cpu_dtype, storage_dtype
from ft_pipeline.models.compute_setting import COMPUTE_DTYPE_VARIABLE, query_compute_dtype, requested_dtype
from ft_pipeline.models.load import load_model
from ft_pipeline.models.serving_engines import Engine
from ft_pipeline_tests.tiny import tiny_model

SMALL_CPU = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Makes a large x86 CPU behave as one with AVX2 alone."""


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv(COMPUTE_DTYPE_VARIABLE, raising=False)


@pytest.mark.long
def test_a_cpu_without_bf16_instructions_computes_in_float32():
    facts = query_compute_dtype(measure=True, environment={**os.environ, **SMALL_CPU})
    assert (facts["device"], facts["dtype"]) == ("cpu", "float32")
    assert facts["gflops"]["float32"] > facts["gflops"]["bfloat16"] > 0


@pytest.mark.parametrize(
    ("kernels", "instructions", "machine", "platform", "dtype"),
    [
        (True, True, "x86_64", "linux", torch.bfloat16),
        (True, False, "x86_64", "linux", torch.float32),  # oneDNN emulates bf16 on AVX-512 without BF16
        (False, True, "x86_64", "linux", torch.float32),  # switched off by ONEDNN_MAX_CPU_ISA
        (True, False, "aarch64", "linux", torch.bfloat16),
        (True, False, "arm64", "darwin", torch.float32),
    ],
)
def test_the_type_of_a_cpu_depends_on_kernels_instructions_and_platform(
    kernels, instructions, machine, platform, dtype, monkeypatch
):
    monkeypatch.setattr(compute, "onednn_has_bf16", lambda: kernels)
    monkeypatch.setattr(compute, "_cpu_supports", lambda probe: instructions and probe == "_is_avx512_bf16_supported")
    monkeypatch.setattr(compute.platform, "machine", lambda: machine)
    monkeypatch.setattr(compute.sys, "platform", platform)
    assert cpu_dtype()[0] == compute_dtype("cpu") == dtype


def test_a_gpu_without_native_bf16_computes_in_float16(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert compute_dtype("cuda:0") == dtype


@pytest.mark.parametrize("choice", ["float32", "bfloat16"])
def test_the_user_can_choose_the_compute_type(choice, monkeypatch, tmp_path):
    monkeypatch.setenv(COMPUTE_DTYPE_VARIABLE, choice)
    # Another process says the same (below).
    monkeypatch.setattr(serving_engines, "query_compute_dtype", lambda: compute._describe(measure=False))
    folder = tiny_model(tmp_path / "base")
    assert load_model(folder, "cpu").dtype == getattr(torch, choice)
    command = Engine("transformers", tmp_path).command("champion", tmp_path, 8000)
    assert command[command.index("--dtype") + 1] == choice  # the model is served with the type of its scores
    assert compute._describe(measure=False)["reason"] == f"FT_COMPUTE_DTYPE={choice}"


def test_an_unknown_compute_type_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv(COMPUTE_DTYPE_VARIABLE, "float8")
    for read_choice in (requested_dtype, lambda: compute_dtype("cpu"), query_compute_dtype):
        with pytest.raises(UserError, match=r"^FT_COMPUTE_DTYPE='float8' is not a compute type\. Set it to auto, "):
            read_choice()


def test_models_are_stored_in_16_bit(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    for config, dtype in (
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "float16"}, torch.float16),
        ({"text_config": {"dtype": "float16"}}, torch.float16),
        ({"dtype": "float32"}, torch.bfloat16),
        ({}, torch.bfloat16),
    ):
        (folder / "config.json").write_text(json.dumps(config))
        assert storage_dtype(folder) == dtype


@pytest.mark.long  # test_doctor.py says the same of the process that `ft doctor` asks
def test_two_processes_choose_the_same_compute_type():
    assert query_compute_dtype() == compute._describe(measure=False)
