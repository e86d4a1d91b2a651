"""Settings of the machine that an experiment's steps request from a cluster. They change no result."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from ft_pipeline.settings.yaml_file import Section, rule_error

SEVERAL_TASKS = ("array", "nodes", "ntasks", "ntasks-per-node")
"""Options of sbatch with which a job's script could start several workers."""


class Toleration(Section):
    """A toleration of Kubernetes."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    def to_kubernetes(self) -> dict[str, str]:
        """Return it as an entry of a pod's `tolerations`."""
        return self.model_dump(exclude_none=True)


class MachineSettings(Section):
    """What a step that uses a device requests from Kubernetes or SLURM, besides the GPUs of `gpu`. The experiment's
    keys replace those of project.yaml. One machine by itself ignores all but `max_hours`."""

    cpus: int | None = Field(None, ge=1)
    """CPUs. Null: what the cluster gives by default."""
    memory_gb: float | None = Field(None, gt=0)
    """Main memory in GB (10⁹ bytes). Null: what the cluster gives by default."""
    max_hours: float | None = Field(None, gt=0)
    """Hours after which a run of the experiment is ended, with the time that it waits (`dagster/max_runtime`), and
    after which a SLURM job of it is ended. Null: no limit."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Kubernetes: labels that the node must have."""
    tolerations: list[Toleration] = Field(default_factory=list)
    """Kubernetes: taints of nodes that its pods accept: `[{key: nvidia.com/gpu, operator: Exists}]`."""
    slurm: dict[str, bool | int | str] = Field(default_factory=dict)
    """SLURM: options of sbatch by their long names: `{partition: gpu, account: ml, exclusive: true}`."""

    @model_validator(mode="after")
    def _check_slurm(self) -> "MachineSettings":
        for name, value in self.slurm.items():
            if not re.fullmatch(r"[a-z][a-z-]*", name):
                raise rule_error("slurm", f"{name!r} is not an option of sbatch. Use a long name such as partition.")
            if name in SEVERAL_TASKS:
                raise rule_error(f"slurm.{name}", f"a step is one task on one node. Remove {name!r}.")
            if not re.fullmatch(r"[ -~]+", str(value)):  # the value is written into the job's script
                raise rule_error(f"slurm.{name}", f"{value!r} is not one line of plain text. Correct {name!r}.")
        return self

    def replaced_by(self, other: "MachineSettings") -> "MachineSettings":
        """Return these settings with the keys that `other` sets."""
        own: dict[str, Any] = {name: getattr(other, name) for name in other.model_fields_set}
        return self.model_copy(update=own)
