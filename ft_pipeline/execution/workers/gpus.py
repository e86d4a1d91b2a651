"""The GPUs of this machine, as nvidia-smi shows them and CUDA_VISIBLE_DEVICES allows them. Does not import torch."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NVIDIA_SMI_TIMEOUT = 30.0
"""Seconds; a driver that was just loaded is slow."""
NO_GPU = ("", "-1")
"""Values of CUDA_VISIBLE_DEVICES that select the CPU."""
MIB = 2**20
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    """0 if the driver does not report it."""
    free_bytes: int

    def has_total(self, gigabytes: float) -> bool:
        """Whether its total memory is at least this large. True if the driver does not report it."""
        return not self.total_bytes or self.total_bytes >= gigabytes * 1e9

    def has_free(self, gigabytes: float) -> bool:
        """Whether this much of its memory is free now. True if the driver does not report it."""
        return not self.total_bytes or self.free_bytes >= gigabytes * 1e9


def visible_gpus(log: Callable[[str], None] = lambda message: None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows; empty without an NVIDIA driver. Does not import torch.

    log: called if a driver reports no GPU, and if CUDA_VISIBLE_DEVICES names none of the GPUs.
    """
    output, error = query_nvidia_smi(QUERY)
    gpus = [gpu for line in output.splitlines() if (gpu := _parse_gpu(line))]
    if not gpus and (error or output):
        log(f"nvidia-smi shows no GPU: {error or first_printable_line(output)}")
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return gpus
    visible = _select_visible(gpus, setting)
    if gpus and not visible and setting.strip() not in NO_GPU:
        log(f"CUDA_VISIBLE_DEVICES={setting!r} names none of the GPUs that nvidia-smi shows")
    return visible


def query_nvidia_smi(command: Sequence[str]) -> tuple[str, str]:
    """Return (output of nvidia-smi, why the output is incomplete or empty); both empty without nvidia-smi."""
    if shutil.which(command[0]) is None:
        return "", ""
    try:
        completed = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=NVIDIA_SMI_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"it did not answer within {NVIDIA_SMI_TIMEOUT:g} s"
    except OSError as error:
        return "", f"it does not start ({error.strerror})"
    output, code = completed.stdout.strip(), completed.returncode
    if code == 0:
        return output, ""
    # If one of several GPUs is lost, nvidia-smi fails, but it still shows the others.
    reported = first_printable_line(completed.stderr) or first_printable_line(completed.stdout)
    return output, f"{reported} (exit code {code})".strip()


def first_printable_line(text: str) -> str:
    """Return the first line of a program's output with printable characters, cut to 200."""
    lines = ("".join(filter(str.isprintable, line)).strip() for line in text.splitlines())
    return next((line[:200] for line in lines if line), "")


def _parse_gpu(line: str) -> Gpu | None:
    """None for a line that does not describe a GPU: a warning, or a message about a lost GPU."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 5 or not cells[0].isdecimal():
        return None
    index, uuid, *name, total, free = cells
    if not (total.isdecimal() and free.isdecimal()):  # [N/A], on some unified-memory machines
        total = free = "0"
    return Gpu(int(index), uuid, ", ".join(name), int(total) * MIB, int(free) * MIB)


def _select_visible(gpus: list[Gpu], setting: str) -> list[Gpu]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES selects.

    It is read as CUDA reads it: indices or UUID prefixes in order, up to the first unknown or repeated one. nvidia-smi
    does not list MIG slices. A MIG slice that is named is accepted, with unknown memory.
    """
    visible: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        matches = [gpu for gpu in gpus if entry == str(gpu.index) or (entry and gpu.uuid.startswith(entry))]
        if entry.startswith("MIG-"):
            matches = [Gpu(len(visible), entry, "MIG slice", 0, 0)]
        if not matches or matches[0] in visible:
            break
        visible.append(matches[0])
    return visible
