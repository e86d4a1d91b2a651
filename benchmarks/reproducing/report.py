"""The results of the reproductions as one JSON document, as lines for a terminal, and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from reproducing.bootstrap import difference, interval
from reproducing.claims import at_edge, conclusions, optimum_of
from reproducing.estimates import RESAMPLES, Estimates, Runs, combine
from reproducing.trainings import ALPHA, ARMS, COMPARED, FULL, NF4_DOUBLE, QUANTIZED, QUANTIZED_RATE, R8, R32, R85, Arm


def document(runs: Runs, setup: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What was measured, on which machine, with intervals, and the conclusions; of what is finished in `runs`."""
    estimates = Estimates(runs, seeds)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": setup["machine"],
        "model": "SmolLM2-135M-Instruct (embedded; its weights went through 4 bits)",
        "rows": setup["rows"],
        "tokens": setup["tokens"],
        "training": {**setup["shared_settings"], "lora_alpha": ALPHA},
        "seeds": list(seeds),
        "minutes": round(sum(run["seconds"] / run["jobs"] for run in runs.values()) / 60, 1),
        "intervals": f"95 %, {RESAMPLES:,} resamples of held-out rows and of seeds, paired between configurations",
        "conclusions": [_rounded(conclusion) for conclusion in conclusions(estimates)],
        "untouched_base": _rounded(asdict(interval(estimates.base()))) if estimates.has_base() else None,
        "every_matrix_attention_all_weights": _study_1(estimates),
        "learning_rates": _study_2(estimates),
        "quantization": _study_3(estimates),
        "configurations": [
            _configuration(estimates, arm, rate)
            for arm in ARMS.values()
            for rate in arm.rates
            if estimates.keys(arm, rate)
        ],
    }


def _configuration(estimates: Estimates, arm: Arm, rate: float) -> dict[str, Any]:
    keys = estimates.keys(arm, rate)
    runs = [estimates.runs[key] for key in keys]
    loss = estimates.loss(arm, rate)
    sound = [run for run in runs if not run.get("diverged")]
    return {
        "name": arm.name,
        "learning_rate": rate,
        "seeds": [seed for seed in estimates.seeds if any(key.endswith(f"seed {seed}") for key in keys)],
        "loss": _rounded(asdict(interval(loss))) if loss else "diverged",
        "loss_by_seed": [
            None if run.get("diverged") else round(sum(run["loss_sums"]) / sum(run["tokens"]), 4) for run in runs
        ],
        "trainable_params": sound[0]["trainable_params"] if sound else None,
        "tokens_per_second": [round(run["tokens_per_second"]) for run in sound],
        "peak_memory_gb": round(max(run["peak_memory_gb"] for run in sound), 2) if sound else None,
        "seconds": [round(run["seconds"]) for run in runs],
    }


def _study_1(estimates: Estimates) -> dict[str, Any] | None:
    """Each arm at its best rate, against LoRA on every matrix."""
    best = {arm: rate for arm in (R32, R85, FULL) if (rate := estimates.best_rate(arm)) is not None}
    losses = {arm: loss for arm, rate in best.items() if (loss := estimates.loss(arm, rate))}
    if R32 not in losses:
        return None
    return {
        "reference": R32.name,
        "best_learning_rate": {arm.name: rate for arm, rate in best.items()},
        "loss": {arm.name: _rounded(asdict(interval(loss))) for arm, loss in losses.items()},
        "worse_than_reference_by": {
            arm.name: _rounded(difference(losses[R32], loss, lower_is_better=True)._asdict())
            for arm, loss in losses.items()
            if arm is not R32
        },
    }


def _study_2(estimates: Estimates) -> dict[str, Any] | None:
    """The optimum of each arm."""
    found = {arm: estimate for arm in (FULL, R8, R32, R85) if (estimate := optimum_of(estimates, arm))}
    if not found:
        return None
    return {
        arm.name: {
            "optimum": _rounded(asdict(interval(estimate))),
            "lowest_of_the_trained": estimates.best_rate(arm),
            "at_the_end_of_the_trained": at_edge(estimates, arm),
        }
        for arm, estimate in found.items()
    }


def _study_3(estimates: Estimates) -> dict[str, Any] | None:
    """Each form of the base, against NF4 with double quantization."""
    losses = {arm: loss for arm in COMPARED if (loss := estimates.loss(arm, QUANTIZED_RATE))}
    if NF4_DOUBLE not in losses:
        return None
    divergences = {arm: estimates.divergence(arm) for arm in QUANTIZED} if estimates.has_base() else {}
    return {
        "reference": NF4_DOUBLE.name,
        "learning_rate": QUANTIZED_RATE,
        "loss": {arm.name: _rounded(asdict(interval(loss))) for arm, loss in losses.items()},
        "worse_than_reference_by": {
            arm.name: _rounded(difference(losses[NF4_DOUBLE], loss, lower_is_better=True)._asdict())
            for arm, loss in losses.items()
            if arm is not NF4_DOUBLE
        },
        "kl_of_untouched_base": {arm.name: _rounded(asdict(interval(kl))) for arm, kl in divergences.items()},
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with five significant digits."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in values.items()}


def lines(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line per configuration and per claim."""
    machine = report["machine"]
    shown = [
        f"{report['rows']['train']} rows to train, {report['rows']['held_out']} held out, seeds {report['seeds']}, "
        f"{machine['compute_dtype']} on {machine['cpu']}, {report['minutes']} min",
        "",
    ]
    for row in report["configurations"]:
        loss = row["loss"]
        text = loss if isinstance(loss, str) else f"{loss['value']:.4f} ({loss['low']:.4f} to {loss['high']:.4f})"
        shown.append(f"{row['name']:26} {row['learning_rate']:8.1e}  {text}")
    for conclusion in report["conclusions"]:
        between = f"{conclusion['value']:.4g} ({conclusion['low']:.4g} to {conclusion['high']:.4g})"
        shown += [
            "",
            f"{conclusion['conclusion'].upper()}: {conclusion['claim']}",
            f"    {conclusion['measured']}: {between}",
        ]
        if "remark" in conclusion:
            shown.append(f"    {conclusion['remark']}")
    return "\n".join(shown)


def picture(runs: Runs, seeds: Sequence[int]) -> bytes | None:
    """PNG: how training changes the held-out loss, by learning rate, for study 2's arms, with paired 95 % intervals.

    None where an arm is not finished. What is worse than the untouched base is left out: it would flatten the rest.
    """
    from ft_pipeline.plotting import BLUE, GREEN, ORANGE, panels

    estimates = Estimates(runs, seeds)
    if not estimates.has_base() or any(estimates.sweep(arm) is None for arm in (FULL, R8, R32)):
        return None

    def draw(axes: Any) -> None:
        for arm, color in ((FULL, ORANGE), (R8, BLUE), (R32, GREEN)):
            losses = {rate: loss for rate in arm.rates if (loss := estimates.loss(arm, rate))}
            changes = {rate: interval(combine([1, -1], [loss, estimates.base()])) for rate, loss in losses.items()}
            shown = {rate: change for rate, change in changes.items() if change.value < 0}
            axes.plot(list(shown), [change.value for change in shown.values()], "o-", color=color, label=arm.name)
            low, high = [change.low for change in shown.values()], [change.high for change in shown.values()]
            axes.fill_between(list(shown), low, high, color=color, alpha=0.15, linewidth=0)
            if best := optimum_of(estimates, arm):
                axes.axvline(best.value, color=color, linestyle="--", linewidth=1)
        axes.set(
            title="Change of the held-out loss by learning rate (dashed: optimum)",
            xlabel="learning rate",
            ylabel="nats per answer token",
            xscale="log",
        )
        axes.legend()

    return panels([draw], 7.0, 3.4)
