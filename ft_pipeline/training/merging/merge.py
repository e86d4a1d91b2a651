"""Add the adapter to the weights of its base, and check that nothing is lost (steps/merged_model.py).

PEFT's own merge of a 4-bit model quantizes the sum again, which can erase a weak adapter. Here the sum is 16 bit. For
qlora there are two modes. `dequantized` adds to the dequantized NF4 weights, which the adapter was trained on. `w16`
adds to the original weights, so that the merged model differs from the adapter by the NF4 noise.
"""

import gc
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ft_pipeline.job import Job
from ft_pipeline.models.base_model import link_files
from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name, storage_dtype
from ft_pipeline.models.load import keep_weights_unpacked, load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.merging.equivalence import HeldOutRows, Measurement, kl_divergence, kl_divergences
from ft_pipeline.training.merging.lora_updates import as_stored, lora_updates
from ft_pipeline.training.objectives.targets import HELD_OUT
from ft_pipeline.training.techniques import copy_companions
from ft_pipeline.training.token_rows import read_split

PAIRS = (
    ("base", "base_4bit"),
    ("adapter", "merged"),
    ("adapter", "merged_4bit"),
    ("merged", "merged_4bit"),
)
"""Pairs of models that are compared. They show the error of quantizing the base, of merging, and (twice) of quantizing
the merged model, as a 4-bit server does."""


@dataclass(frozen=True)
class NoiseLine:
    """One line of the table, on the held-out answers."""

    first: str
    second: str
    kl: float
    """KL(first || second), nats per token."""
    first_loss: float
    second_loss: float
    """Nats per answer token."""

    @property
    def difference(self) -> float:
        """How much worse the second model is, in nats per answer token."""
        return self.second_loss - self.first_loss


_NOT_MODEL_FILES = ("manifest.json", "metrics.jsonl", HELD_OUT)
"""Files of a trained model that are not part of the model."""


@dataclass(frozen=True)
class MergeResult:
    """Result of merging in one mode, measured on the held-out answers."""

    heldout_loss: float
    kl: float
    """KL(adapter || merged), nats per token."""
    passed: bool
    kept_gain: float | None = None
    """Share of the gain over the untuned model that is kept, 1 = all; None if the KL is checked instead."""


def held_out_rows(job: Job) -> HeldOutRows:
    """Return the validation rows, which check the merge."""
    pad = load_tokenizer(job.inputs["base_model"]).pad_token_id
    return HeldOutRows(read_split(job.inputs["training_data"], "validation"), pad)


def keep(job: Job, mode: str) -> None:
    """Make the model that is merged in this mode the artifact."""
    for path in _merged_folder(job, mode).iterdir():
        shutil.move(path, job.out / path.name)


def _merged_folder(job: Job, mode: str) -> Path:
    return job.work / f"merged-{mode}"


def merge_and_measure(job: Job, settings: ExperimentSettings, mode: str, held_out: HeldOutRows) -> Measurement:
    """Write the model that is merged in this mode to its folder, and measure it."""
    folder = _merged_folder(job, mode)
    shutil.rmtree(folder, ignore_errors=True)
    write_merged(job.inputs["base_model"], job.inputs["adapter"], folder, settings, mode, job.device)
    return held_out.load_and_measure(partial(load_model, folder, job.device))


def describe(result: MergeResult) -> str:
    """Return a result as the log shows it."""
    gain = "" if result.kept_gain is None else f", {result.kept_gain:.0%} of the gain kept"
    check = "passed" if result.passed else "failed"
    return f"held-out loss {result.heldout_loss:.4f} nats per token, KL {result.kl:.4g}{gain}; check {check}"


def measure_noise(
    job: Job, settings: ExperimentSettings, measured: dict[str, Measurement], held_out: HeldOutRows
) -> dict[str, Any]:
    """Return `noise` (quantization_error.noise_table) if the experiment uses 4 bit and requests it. Two or three more
    models are loaded and measured."""
    if settings.technique != "qlora" or not settings.merge.measure_noise:
        return {}
    four_bit = settings.quantization.model_dump()
    base = job.inputs["base_model"]
    if "base" not in measured:
        measured["base"] = held_out.load_and_measure(partial(load_model, base, job.device))
    for name, folder in (("base_4bit", base), ("merged_4bit", job.out)):
        measured[name] = held_out.load_and_measure(partial(_load_four_bit_model, folder, job.device, four_bit))
    table = noise_table(measured, job.device)
    for line in table:
        job.report.log(f"{line['first']} to {line['second']}: KL {line['kl']:.4f}, loss {line['difference']:+.4f}")
    return {"noise": table}


def _load_four_bit_model(folder: Path, device: str, quantization: dict[str, Any]) -> Any:
    model = load_model(folder, device, quantization=quantization)
    keep_weights_unpacked(model)
    return model


def link_full_model(job: Job) -> dict[str, Any]:
    """Link the files of the trained model: `full` trains a whole model, of which the disk needs no second copy."""
    link_files(job.inputs["adapter"], job.out, exclude=_NOT_MODEL_FILES)
    message = "all weights were trained, so there is no adapter to merge"
    return {
        "mode": "full",
        "passed": True,
        "checks": {"merge_equivalence": {"passed": True, "blocking": True, "message": message}},
    }


def write_unmerged(job: Job) -> dict[str, Any]:
    """Write only merge.json: a learned prompt is not part of the weights, and is served as an adapter."""
    message = "a learned prompt does not change the weights, so there is nothing to merge; serve the adapter"
    (job.out / "merge.json").write_text(json.dumps({"mode": "none", "message": message}) + "\n", encoding="utf-8")
    check = {"passed": True, "blocking": True, "message": message}
    return {"mode": "none", "passed": True, "checks": {"merge_equivalence": check}}


def write_merged(
    base: Path, adapter: Path, out: Path, settings: ExperimentSettings, mode: str, device: str = "cpu"
) -> None:
    """Write base + (alpha/r)·B·A, summed in fp32 and stored in the base's 16-bit type, with tokenizer and template."""
    dtype = storage_dtype(base)
    updates = lora_updates(adapter)
    model = load_model(base, device, dtype=dtype)
    if mode == "dequantized":
        for name, weight in dequantized_weights(base, settings, device):
            module, update = model.get_submodule(name), updates.pop(name, None)
            total = weight if update is None else update.apply(weight.float())
            module.weight.data = as_stored(module, total.to(dtype))
        gc.collect()  # frees the 4-bit model, whose modules refer to each other
    for update in updates.values():
        update.add_to(model)
    model.to(dtype).save_pretrained(out)
    copy_companions(base, out)


def dequantized_weights(base: Path, settings: ExperimentSettings, device: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the module names and weights [outputs, inputs] of the 4-bit base, dequantized to the compute type one at a
    time.

    All at once they would take as much memory as the 16-bit model, in fp32 twice as much. Each 4-bit weight is freed
    after it is dequantized. The 4-bit model is loaded again, because a forward pass on a CPU can change its layout.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    model = load_model(base, device, quantization=settings.quantization.model_dump())
    keep_weights_unpacked(model)
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            del module.weight
            yield name, weight


def modes(settings: ExperimentSettings) -> list[str]:
    """Return the modes in which the adapter is merged. The best one is used."""
    if settings.technique == "lora":
        return ["w16"]  # its base is the 16-bit model
    return ["dequantized", "w16"] if settings.merge.mode == "auto" else [settings.merge.mode]


def load_adapter_model(job: Job, settings: ExperimentSettings) -> Any:
    """Load the base as it was trained on, with the adapter."""
    quantization = settings.quantization.model_dump() if settings.technique == "qlora" else None
    model = load_model(job.inputs["base_model"], job.device, quantization=quantization, adapter=job.inputs["adapter"])
    keep_weights_unpacked(model)
    return model


def measure_base(job: Job, settings: ExperimentSettings, held_out: HeldOutRows) -> Measurement | None:
    """Measure the 16-bit base on the held-out rows, if a merge into it is checked by the share of the gain it keeps."""
    if settings.technique != "qlora" or "w16" not in modes(settings):
        return None
    return held_out.load_and_measure(partial(load_model, job.inputs["base_model"], job.device))


def check_merge(
    merged: Measurement,
    adapter: Measurement,
    base_loss: float | None,
    settings: ExperimentSettings,
    device: str = "cpu",
) -> MergeResult:
    """Compare a merged model with its adapter.

    base_loss: loss of the 16-bit base, if the merge uses it instead of the weights that the adapter was trained on.
    """
    kl = kl_divergence(adapter, merged, device)
    if base_loss is None:
        return MergeResult(merged.loss, kl, kl <= settings.merge.max_kl)
    gain = base_loss - adapter.loss
    kept_gain = (base_loss - merged.loss) / gain if gain > 0 else 0.0
    return MergeResult(merged.loss, kl, kept_gain >= settings.merge.min_kept_gain, kept_gain)


def summarize(
    mode: str,
    candidates: dict[str, MergeResult],
    reference: Measurement,
    settings: ExperimentSettings,
    device: str,
) -> dict[str, Any]:
    """Return the summary of a merge in `mode`, the best one. reference: the measurement of the adapter."""
    best = candidates[mode]
    if best.kept_gain is None:
        criterion = f"KL(adapter || merged) {best.kl:.4f} nats per token (limit {settings.merge.max_kl:g})"
        criterion += f" on {len(reference.states):,} tokens of {reference.compared_rows} rows"
    else:
        criterion = f"keeps {best.kept_gain:.0%} of the training gain (minimum {settings.merge.min_kept_gain:.0%})"
    losses = f"{reference.loss:.4f} (adapter), {best.heldout_loss:.4f} (merged) on {reference.rows} rows"
    message = f"{mode}: {criterion}; held-out loss {losses}"
    return {
        "mode": mode,
        "kl_adapter_merged": best.kl,
        "max_kl": settings.merge.max_kl,
        "passed": best.passed,
        "adapter_heldout_loss": reference.loss,
        "heldout_rows": reference.rows,
        "compared_tokens": len(reference.states),
        "compared_rows": reference.compared_rows,
        "computed_in": dtype_name(compute_dtype(device)),
        "candidates": {name: asdict(candidate) for name, candidate in candidates.items()},
        "checks": {"merge_equivalence": {"passed": best.passed, "blocking": True, "message": message}},
    }


def noise_table(measured: Mapping[str, Measurement], device: str = "cpu") -> list[dict[str, float | str]]:
    """Return a line, as JSON with its `difference`, for each of PAIRS whose two models are in `measured`. It is
    computed on `device`."""
    pairs = [(first, second) for first, second in PAIRS if first in measured and second in measured]
    lines = [
        NoiseLine(first, second, kl, measured[first].loss, measured[second].loss)
        for (first, second), kl in kl_divergences(measured, pairs, device).items()
    ]
    return [{**asdict(line), "difference": line.difference} for line in lines]
