"""Parts that hold the losses of trainings against those of the CPU in float32: each technique with each objective."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from gpu_parts.bench import Bench, Findings
from gpu_parts.material import experiment, validated

MEASURED_BY = ("first loss", "losses", "held-out losses", "learned", "first gradient")
_FLOOR = 0.5
"""A difference counts against the value, or against this if the value is smaller: the loss of grpo is near 0."""


@dataclass(frozen=True)
class Tolerance:
    """The largest differences from the CPU, as shares of the value."""

    first: float
    """The first loss, before any update."""
    later: float
    """All other losses: differences grow with each update."""
    learned: float
    """The change of the held-out loss: a few steps change a loss little, whatever is wrong with them."""
    gradient: float
    """The norm of the first gradient."""

    def times(self, factor: float) -> "Tolerance":
        return Tolerance(*(factor * limit for limit in astuple(self)))


TOLERANCES = {
    "float32": Tolerance(first=2e-5, later=1e-3, learned=0.02, gradient=1e-3),
    "bfloat16": Tolerance(first=1e-3, later=3e-3, learned=0.1, gradient=0.02),
    "float16": Tolerance(first=1e-3, later=0.1, learned=math.inf, gradient=math.inf),
}
"""By what a training computes in. benchmarks/README.md says where they come from. In float16 the first gradients
overflow until their scale is found, and these steps change nothing."""
_AGAINST_FLOAT32 = {"bfloat16": Tolerance(first=3e-3, later=0.06, learned=0.25, gradient=0.02)}
"""Wider ones, where the other training computes in float32."""
_LEAST_LEARNED = {"bfloat16": 0.02}
"""Against float32, a smaller change of the held-out loss (a share of it) is compared as one of this size."""
_FOUR_BIT_FACTOR = 2
"""Two devices may round a weight to neighboring values of NF4."""
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {"technique": "lora"},
    "qlora": {"technique": "qlora"},
    "full": {"technique": "full"},
    "dora": {"technique": "lora", "lora": {"use_dora": True}},
    "rslora": {"technique": "lora", "lora": {"use_rslora": True, "r": 32}},
    "qdora": {"technique": "qlora", "lora": {"use_dora": True}},
    "prompt_tuning": {"technique": "prompt_tuning"},
}
"""The techniques, and kinds of LoRA."""
_TRIED = ("lora",)
"""What a trial on tiny models trains with the objectives other than sft."""


def offered(objective: str) -> list[str]:
    """The variants that the settings allow with an objective."""
    from pydantic import ValidationError

    from ft_pipeline.settings.experiment import ExperimentSettings

    names = []
    for name, variant in VARIANTS.items():
        try:
            ExperimentSettings.model_validate(experiment(objective, variant))
        except ValidationError:
            continue
        names.append(name)
    return names


def measure_objective(objective: str) -> Callable[[Bench], Findings]:
    """The part of an objective."""

    def measure(bench: Bench) -> Findings:
        findings = Findings()
        base, data = bench.model("small"), bench.folder("material")
        bench.run("material", {"objective": objective, "base": base, "folder": data})
        compared = Comparison(bench, findings, objective, base, f"{data}/data")
        names = offered(objective)
        if bench.is_tiny and objective != "sft":
            names = [name for name in names if name in _TRIED]
        compared.run({name: VARIANTS[name] for name in names})
        if objective == "sft":
            compared.require_that_errors_are_found()
            qwen = bench.folder("qwen_material")
            bench.run("material", {"objective": objective, "base": bench.model("small_qwen"), "folder": qwen})
            other = Comparison(bench, findings, objective, bench.model("small_qwen"), f"{qwen}/data", "Qwen's, ")
            other.run({name: VARIANTS[name] for name in ("lora", "qlora")})
        return findings

    return measure


@dataclass(frozen=True)
class Comparison:
    """Trainings of one objective from one model, on the CPU in float32 and on the device."""

    bench: Bench
    findings: Findings
    objective: str
    base: str
    data: str
    prefix: str = ""

    def run(self, variants: Mapping[str, dict[str, Any]]) -> None:
        """Train each variant on both, and add the checks."""
        # Answers of grpo are drawn on the CPU, which is why it comes first.
        references = self.bench.run_each(
            "training", [self.item(name, "cpu", "float32", v) for name, v in variants.items()]
        )
        wanted = [(name, dtype) for name in variants for dtype in self.bench.device_dtypes]
        device = self.bench.torch_device
        outcomes = self.bench.run_each(
            "training", [self.item(name, device, dtype, variants[name]) for name, dtype in wanted]
        )
        by_name = dict(zip(variants, references, strict=True))
        for (name, dtype), outcome in zip(wanted, outcomes, strict=True):
            label = f"{self.prefix}{name}, {dtype}"
            reference = self.findings.taken(f"{label}: the CPU's training", by_name[name])
            measured = self.findings.taken(label, outcome)
            if reference and measured:
                self._hold(label, name, reference, measured)

    def _hold(self, label: str, variant: str, reference: dict[str, Any], measured: dict[str, Any]) -> None:
        computed = measured["computed_in"]
        tolerance = _AGAINST_FLOAT32.get(computed, TOLERANCES[computed])
        tolerance = tolerance.times(_FOUR_BIT_FACTOR if variant.startswith("q") else 1)
        differences = compare_losses(reference, measured, _LEAST_LEARNED.get(computed, 0.0))
        hold(self.findings, label, differences, tolerance)
        self.findings.row(
            "losses against the CPU",
            training=label,
            computed_in=computed,
            first_loss=measured["loss"][0],
            cpu_first_loss=reference["loss"][0],
            last_loss=measured["loss"][-1],
            cpu_last_loss=reference["loss"][-1],
            worst_difference=max(differences.values()),
        )

    def require_that_errors_are_found(self) -> None:
        """Two trainings that are wrong on purpose must fail the comparison in float32; else it shows nothing."""
        device = self.bench.torch_device
        rate = validated(experiment("sft", VARIANTS["lora"])).training.learning_rate
        wrong_rate = {**VARIANTS["lora"], "training": {"learning_rate": 1.2 * rate}}
        wrong_scale = {**VARIANTS["lora"], "lora": {"lora_alpha": 10}}
        items = [
            self.item("lora", "cpu", "float32", VARIANTS["lora"]),
            self.item("wrong rate", device, "float32", wrong_rate),
            self.item("wrong scale", device, "float32", wrong_scale),
        ]
        reference, *wrong = self.bench.run_each("training", items)
        expected = self.findings.taken("the CPU's training", reference)
        for name, outcome in zip(("a learning rate 20 % too high", "LoRA scaled 25 % too much"), wrong, strict=True):
            measured = self.findings.taken(name, outcome)
            if not expected or not measured:
                continue
            trial = Findings()
            hold(trial, name, compare_losses(expected, measured), TOLERANCES["float32"])
            found = sum(not check["passed"] for check in trial.checks)
            self.findings.check(f"control: {name} is found", found, 1, at_least=True)

    def item(self, name: str, device: str, dtype: str, variant: dict[str, Any]) -> dict[str, Any]:
        """What the task `training` needs."""
        folder = self.bench.folder(f"{self.prefix}{name}-{device}-{dtype}".replace(" ", "_").replace(":", ""))
        rollouts = self.bench.folder(f"{self.prefix}{name}-rollouts.json")
        return {
            "experiment": experiment(self.objective, variant),
            "base": self.base,
            "data": self.data,
            "device": device,
            "dtype": dtype,
            "folder": folder,
            "rollouts": rollouts if self.objective == "grpo" else None,
        }


def compare_losses(reference: dict[str, Any], measured: dict[str, Any], least_learned: float = 0.0) -> dict[str, float]:
    """The largest differences of the losses as shares of the reference, by MEASURED_BY. Infinite if their numbers
    differ, or if one is not a number. least_learned: as in _LEAST_LEARNED."""
    floor = max(1e-3, least_learned * reference["eval_loss"][0])
    return {
        "first loss": _difference(reference["loss"][:1], measured["loss"][:1]),
        "losses": _difference(reference["loss"][1:], measured["loss"][1:]),
        "held-out losses": _difference(reference["eval_loss"], measured["eval_loss"]),
        "learned": _difference([_learned(reference)], [_learned(measured)], floor=floor),
        "first gradient": _difference(reference["grad_norm"][:1], measured["grad_norm"][:1], floor=1e-6),
    }


def hold(findings: Findings, label: str, differences: Mapping[str, float], tolerance: Tolerance) -> None:
    """Add a check for each difference."""
    limits = (tolerance.first, tolerance.later, tolerance.later, tolerance.learned, tolerance.gradient)
    for name, limit in zip(MEASURED_BY, limits, strict=True):
        findings.check(f"{label}: {name}", differences[name], limit)


def _learned(training: dict[str, Any]) -> float:
    """By how much the held-out loss fell."""
    held_out: list[float] = training["eval_loss"]
    return held_out[0] - held_out[-1]


def _difference(expected: Sequence[float], values: Sequence[float], floor: float = _FLOOR) -> float:
    if len(expected) != len(values):
        return float("inf")
    shares = [abs(value - other) / max(abs(other), floor) for value, other in zip(values, expected, strict=True)]
    return max((float("inf") if math.isnan(share) else share for share in shares), default=0.0)
