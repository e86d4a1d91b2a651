"""Operating systems: Windows is refused in one line, macOS computes on its CPU in float32."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import peft
import pytest
from peft import LoraConfig, get_peft_model

from ft_pipeline.execution.workers import worker
from ft_pipeline.models import compute_dtype as compute
from ft_pipeline.models.load import load_model
from ft_pipeline.models.serving_engines import Engine

REFUSAL = "Windows is not supported natively. Run it in WSL 2 or in Docker (docs/deploy.md)."
WINDOWS = "sys.platform = 'win32'; sys.modules.update(fcntl=None, resource=None)"
"""Code that makes the modules of POSIX impossible to import."""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_command_refuses_windows_in_one_line() -> None:
    process = run(f"import sys; {WINDOWS}; from ft_pipeline.cli import main; main()")
    assert (process.returncode, process.stdout, process.stderr) == (2, "", f"ft: {REFUSAL}\n")


def test_dagster_shows_the_same_refusal() -> None:
    """If Dagster cannot load a module, it shows the message of the error."""
    process = run(f"import sys, dagster; {WINDOWS}; import ft_pipeline.definitions")
    assert process.stderr.splitlines()[-1] == f"ft_pipeline.errors.UserError: {REFUSAL}"
    assert "ModuleNotFoundError" not in process.stderr


def test_a_mac_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bf16 products are slow, even if oneDNN reports support."""
    monkeypatch.delenv("FT_COMPUTE_DTYPE", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(compute, "onednn_has_bf16", lambda: True)
    assert compute.dtype_name(compute.compute_dtype("cpu")) == "float32"


def test_peak_memory_is_converted_to_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without /proc, getrusage is used, which returns bytes on macOS and kilobytes elsewhere."""
    monkeypatch.setattr(worker, "Path", lambda _: tmp_path / "no_proc")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert worker.peak_rss_bytes() >= 1024 * kilobytes
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kilobytes <= worker.peak_rss_bytes() < 1024 * kilobytes


def test_an_adapter_is_loaded_on_the_device_of_its_model(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default PEFT takes the best device: on a Mac the GPU, although the model is on the CPU."""
    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load_model(tiny_base, "cpu"), config).save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(peft.peft_model, "infer_device", lambda: pytest.fail("it looked for a device"))
    assert load_model(tiny_base, "cpu", adapter=tmp_path / "adapter").device.type == "cpu"


def test_without_a_cuda_gpu_a_model_is_served_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By default transformers takes the GPU of a Mac."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = Engine("transformers", Path("transformers")).command("model", tmp_path, 8000)
    assert command[command.index("--device") + 1] == "cpu"
