"""The trainings of the reproductions: what they share, what differs, and which ones the results so far call for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SHARED = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "optim": "adamw_torch",  # all weights as well: no 8-bit state that could differ
    "padding_free": True,  # the same loss, and faster
}
"""Settings of `training` that all have; the others are the project's defaults (cosine schedule, 5 % warmup)."""
ALPHA = 32
"""lora_alpha of every rank: the update is scaled by lora_alpha / r."""
FULL_RATES = (4.6e-5, 1e-4, 2.2e-4, 4.6e-4, 1e-3)
LORA_RATES = (4.6e-4, 1e-3, 2.2e-3, 4.6e-3, 1e-2)
"""A third of a decade apart: from the best one to the next, a short training can diverge."""
WINDOW = 3
"""Neighboring rates around the lowest loss, which further seeds repeat, and which a parabola goes through."""


@dataclass(frozen=True)
class Arm:
    """One way to train, whatever the learning rate."""

    name: str
    technique: str
    rank: int | None = None
    targets: str | None = None
    """`every matrix` or `attention`."""
    quant_type: str | None = None
    double_quant: bool | None = None

    @property
    def rates(self) -> tuple[float, ...]:
        return FULL_RATES if self.technique == "full" else LORA_RATES

    def settings(self, rate: float, seed: int) -> dict[str, Any]:
        """The experiment, as its YAML would have it."""
        experiment: dict[str, Any] = {
            "technique": self.technique,
            "training": {**SHARED, "learning_rate": rate, "seed": seed},
        }
        if self.rank is not None:
            targets = ATTENTION if self.targets == "attention" else "all-linear"
            experiment["lora"] = {"r": self.rank, "lora_alpha": ALPHA, "target_modules": targets}
        if self.quant_type is not None:
            experiment["quantization"] = self.quantization()
        return experiment

    def quantization(self) -> dict[str, Any]:
        """BitsAndBytesConfig's keys of a 4-bit base."""
        return {"bnb_4bit_quant_type": self.quant_type, "bnb_4bit_use_double_quant": self.double_quant}


FULL = Arm("all weights", "full")
R8 = Arm("LoRA r 8", "lora", 8, "every matrix")
R32 = Arm("LoRA r 32", "lora", 32, "every matrix")
R85 = Arm("LoRA r 85, attention", "lora", 85, "attention")
NF4_DOUBLE = Arm("NF4, double quantization", "qlora", 32, "every matrix", "nf4", True)
NF4 = Arm("NF4", "qlora", 32, "every matrix", "nf4", False)
FP4_DOUBLE = Arm("FP4, double quantization", "qlora", 32, "every matrix", "fp4", True)
FP4 = Arm("FP4", "qlora", 32, "every matrix", "fp4", False)
QUANTIZED = (NF4_DOUBLE, NF4, FP4_DOUBLE, FP4)
SWEPT = {1: (R32, R85, FULL), 2: (R32, R8, FULL)}
"""By study, the arms that are trained at five learning rates."""
COMPARED = (R32, *QUANTIZED)
"""Of study 3: the 16-bit base and its 4-bit forms, at one learning rate."""
QUANTIZED_RATE = LORA_RATES[2]
ARMS = {arm.name: arm for arm in (FULL, R8, R32, R85, *QUANTIZED)}


@dataclass(frozen=True)
class Training:
    """One arm at one learning rate and with one seed (of the adapter's start and of the order of the rows)."""

    arm: Arm
    rate: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.arm.name}, learning rate {self.rate:g}, seed {self.seed}"


Losses = Mapping[str, float]
"""Held-out loss by the key of a training, in nats per answer token; infinite where it diverged."""


def swept_arms(studies: Iterable[int]) -> list[Arm]:
    """The arms of `studies` that are trained at five learning rates."""
    return list(dict.fromkeys(arm for study in sorted(studies) for arm in SWEPT.get(study, ())))


def called_for(studies: Sequence[int], seeds: Sequence[int], losses: Losses) -> list[Training]:
    """The trainings of `studies` that can be named so far, finished ones included.

    The first seed trains at every rate. The others repeat the WINDOW around the lowest loss, once that is known.
    """
    trainings = [Training(arm, rate, seeds[0]) for arm in swept_arms(studies) for rate in arm.rates]
    for arm in swept_arms(studies):
        sweep = [Training(arm, rate, seeds[0]).key for rate in arm.rates]
        if all(key in losses for key in sweep):
            trainings += [
                Training(arm, arm.rates[place], seed)
                for seed in seeds[1:]
                for place in window([losses[key] for key in sweep])
            ]
    if 3 in studies:
        trainings += [Training(arm, QUANTIZED_RATE, seed) for seed in seeds for arm in COMPARED]
    return list(dict.fromkeys(trainings))


def still_unnamed(studies: Sequence[int], seeds: Sequence[int], losses: Losses) -> list[Training]:
    """Stand-ins for the repetitions whose window is not known yet, for an estimate of time."""
    missing = [
        arm for arm in swept_arms(studies) if not all(Training(arm, rate, seeds[0]).key in losses for rate in arm.rates)
    ]
    return [Training(arm, rate, seed) for arm in missing for rate in arm.rates[1:4] for seed in seeds[1:]]


def window(losses: Sequence[float]) -> range:
    """The places of the WINDOW neighbors around the lowest of `losses`; those at the end where it is the first or
    the last."""
    lowest = min(range(len(losses)), key=losses.__getitem__)
    begin = min(max(lowest - WINDOW // 2, 0), len(losses) - WINDOW)
    return range(begin, begin + WINDOW)


def lora_parameters(arm: Arm, config: Mapping[str, Any]) -> int:
    """Parameters of the adapter of `arm` on a Llama of this config.json: r · (inputs + outputs) of each matrix."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    sides = [hidden + hidden, hidden + key_value, hidden + key_value, hidden + hidden]
    if arm.targets == "every matrix":
        sides += 3 * [hidden + inner]
    return (arm.rank or 0) * sum(sides) * int(config["num_hidden_layers"])


def mean_loss(run: Mapping[str, Any]) -> float:
    """Nats per answer token over the held-out rows of a finished run; infinite where it diverged."""
    return math.inf if run.get("diverged") else sum(run["loss_sums"]) / sum(run["tokens"])
