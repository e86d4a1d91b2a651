"""Device leases. A stand-in program `nvidia-smi` lists the GPUs; leasing needs nothing else."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ft_pipeline import doctor
from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import device_leases, gpus
from ft_pipeline.execution.workers.device_leases import DeviceNeed, lease_devices
from ft_pipeline.execution.workers.gpus import visible_gpus
from ft_pipeline.project import Project

TWO_GPUS = "0, GPU-aaaa, NVIDIA A100, 81920, 80000\n1, GPU-bbbb, NVIDIA T4, 15360, {free}\n"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a driver."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with two GPUs; returns the file whose content nvidia-smi prints."""
    (tmp_path / "bin").mkdir()
    shown = tmp_path / "shown.csv"
    shown.write_text(TWO_GPUS.format(free=15000))
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {shown}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return shown


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_there_is_one_cpu_slot(tmp_path: Path) -> None:
    assert visible_gpus() == []
    with lease_devices(DeviceNeed(count=4, min_memory_gb=80), tmp_path) as held:
        assert (held.device, held.env, held.gpu_names) == ("cpu", {"CUDA_VISIBLE_DEVICES": ""}, ())
        code = (
            "import sys; from pathlib import Path\n"
            "from ft_pipeline.execution.workers.device_leases import DeviceNeed, lease_devices\n"
            "def log(message): print(message, flush=True)\n"
            "with lease_devices(DeviceNeed(), Path(sys.argv[1]), log): print('held', flush=True)"
        )
        second_process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert second_process.stdout is not None
        assert second_process.stdout.readline().startswith("waiting: the CPU slot is in use by process")
    assert second_process.communicate()[0] == "held\n"


@pytest.mark.usefixtures("no_gpu")
def test_a_required_gpu_that_is_absent_is_an_error(tmp_path: Path) -> None:
    message = (
        r"this step needs 2 GPUs of at least 40 GB, and nvidia-smi shows none\. Remove `gpu` .* a machine with a GPU\."
    )
    with pytest.raises(UserError, match=message), lease_devices(DeviceNeed(2, 40, required=True), tmp_path):
        pass


def test_a_required_gpu_that_is_hidden_is_an_error(
    two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = "needs 1 GPU, and CUDA_VISIBLE_DEVICES='' allows none"
    with pytest.raises(UserError, match=message), lease_devices(DeviceNeed(required=True), tmp_path):
        pass


@pytest.mark.usefixtures("two_gpus")
def test_each_job_leases_separate_gpus(tmp_path: Path) -> None:
    with lease_devices(DeviceNeed(), tmp_path) as first, lease_devices(DeviceNeed(), tmp_path) as second:
        assert (first.device, first.env["CUDA_VISIBLE_DEVICES"], first.gpu_names) == (
            "cuda:0",
            "GPU-aaaa",
            ("NVIDIA A100",),
        )
        assert second.env["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb"
    with lease_devices(DeviceNeed(count=2), tmp_path) as both:
        assert both.env["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa,GPU-bbbb"


@pytest.mark.usefixtures("two_gpus")
def test_the_required_memory_decides_which_gpu_is_leased(tmp_path: Path) -> None:
    with lease_devices(DeviceNeed(min_memory_gb=40), tmp_path) as held:
        assert held.gpu_names == ("NVIDIA A100",)
    message = r"2 GPU.* of at least 40 GB, but this machine has NVIDIA A100 86 GB, NVIDIA T4 16 GB"
    with pytest.raises(UserError, match=message), lease_devices(DeviceNeed(count=2, min_memory_gb=40), tmp_path):
        pass


def test_a_lease_waits_for_memory_that_other_processes_use(
    two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(device_leases, "POLL_SECONDS", 0.05)
    two_gpus.write_text(TWO_GPUS.format(free=1000))
    messages: list[str] = []

    def log(message: str) -> None:
        messages.append(message)
        two_gpus.write_text(TWO_GPUS.format(free=15000))

    with lease_devices(DeviceNeed(min_memory_gb=10), tmp_path, log) as held:
        assert held.gpu_names == ("NVIDIA T4",)
    assert messages == ["waiting: GPU 1 has 1.0 GB free, but 10 GB are required"]

    monkeypatch.setattr(device_leases, "OBSTACLE_TIMEOUT", 0.0)
    two_gpus.write_text(TWO_GPUS.format(free=1000))
    refused = pytest.raises(UserError, match=r"1\.0 GB free, but 10 GB are required\. Find .* stop the process")
    with refused, lease_devices(DeviceNeed(min_memory_gb=10), tmp_path):
        pass


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["GPU-bbbb"]),
        ("1,0", ["GPU-bbbb", "GPU-aaaa"]),
        ("GPU-bb", ["GPU-bbbb"]),
        ("", []),
        ("-1", []),
        ("0,9,1", ["GPU-aaaa"]),
        ("0,0,1", ["GPU-aaaa"]),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
def test_cuda_visible_devices_is_honored(monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.uuid for gpu in visible_gpus()] == expected


def test_cuda_visible_devices_without_any_known_gpu_is_reported(
    two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    messages: list[str] = []
    with lease_devices(DeviceNeed(), tmp_path, messages.append) as held:
        assert held.device == "cpu"
    assert "CUDA_VISIBLE_DEVICES='7' names none of the GPUs" in messages[0]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exec sleep 60", "it did not answer within 0.2 s"),
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "NVIDIA-SMI has failed: no driver (exit code 9)"),
        ("echo No devices were found", "No devices were found"),
        ("head -c 300 /dev/zero; echo; printf '\\377, a, b, c, d\\n'", ""),
    ],
)
def test_a_failing_driver_is_reported_and_the_cpu_is_used(
    two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    """The CPU is slow, so a line of the log says why no GPU is used."""
    monkeypatch.setattr(gpus, "NVIDIA_SMI_TIMEOUT", 0.2 if "sleep" in script else 30.0)
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    messages: list[str] = []
    with lease_devices(DeviceNeed(), tmp_path, messages.append) as held:
        assert held.device == "cpu"
    assert len(messages) == 1 and f"nvidia-smi shows no GPU: {why}" in messages[0] and "runs on the CPU" in messages[0]
    with pytest.raises(UserError, match="nvidia-smi shows no GPU"), lease_devices(DeviceNeed(required=True), tmp_path):
        pass
    assert why in next(fact for fact in doctor.examine(Project(tmp_path)) if fact.what == "GPU").seen


def test_a_lost_gpu_does_not_hide_the_others(two_gpus: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    lost = "Unable to determine the device handle for GPU1: 0000:0B:00.0: GPU is lost."
    program.write_text(f"#!/bin/sh\nhead -1 {two_gpus}\necho '{lost}'\nexit 15\n")
    with lease_devices(DeviceNeed(), tmp_path) as held:
        assert held.gpu_names == ("NVIDIA A100",)


def test_gpus_that_are_lost_during_the_wait_are_an_error(
    two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_leases, "OBSTACLE_TIMEOUT", 0.0)
    monkeypatch.setattr(device_leases, "POLL_SECONDS", 0.01)

    def lose_gpus(message: str) -> None:
        two_gpus.write_text("")
        first.close()

    refused = pytest.raises(UserError, match=r"nvidia-smi no longer shows a GPU\. Find .* repair the driver")
    with ExitStack() as first:
        first.enter_context(lease_devices(DeviceNeed(count=2), tmp_path))
        with refused, lease_devices(DeviceNeed(), tmp_path, lose_gpus):
            pass


def test_a_wait_for_a_lost_gpu_is_reported(two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_leases, "OBSTACLE_TIMEOUT", 0.0)
    monkeypatch.setattr(device_leases, "POLL_SECONDS", 0.01)
    shown = iter([TWO_GPUS.format(free=15000).splitlines()[1], ""])
    messages: list[str] = []

    def log(message: str) -> None:
        messages.append(message)
        two_gpus.write_text(next(shown))
        first.close()

    refused = pytest.raises(UserError, match="nvidia-smi no longer shows a GPU")
    with ExitStack() as first:
        first.enter_context(lease_devices(DeviceNeed(), tmp_path))
        with refused, lease_devices(DeviceNeed(count=2), tmp_path, log):
            pass
    assert messages[0].startswith("waiting: GPU 0 is in use by process")
    assert messages[1:] == ["waiting: this step needs 2 GPUs, but nvidia-smi now shows only 1"]


def test_a_gpu_of_unknown_memory_is_leased(two_gpus: Path, tmp_path: Path) -> None:
    two_gpus.write_text("0, GPU-cccc, NVIDIA GB10, [N/A], [N/A]\n")
    with lease_devices(DeviceNeed(min_memory_gb=40), tmp_path) as held:
        assert held.gpu_names == ("NVIDIA GB10",)
