"""What a GGUF file costs against its merged model, as numbers with intervals, and whether that is within the limits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate, difference, interval, unit_of

Costs = dict[str, Any]
"""By measure (`loss_increase`, `kl`: nats per token of the reference answers; `agreement`, `identical`: shares of the
answers), `value`, `low` and `high`, with 95 % intervals over clusters of conversations. The first two are missing where
only agreement was measured."""


def summarize(records: Sequence[Mapping[str, Any]]) -> Costs:
    """Return the costs of one file, from its records in gguf.parquet with the clusters of their conversations."""
    conversations = Conversations([unit_of(record) for record in records])
    shares = conversations.means(_columns(records, "agrees", "identical"), is_rate=True)
    costs = {name: _numbers(share) for name, share in zip(("agreement", "identical"), shares, strict=True)}
    if "loss_sum" not in records[0]:
        return costs
    sums = _columns(records, "loss_sum", "merged_loss_sum", "kl_sum")
    tokens = np.repeat(_columns(records, "answer_tokens"), sums.shape[1], axis=1)
    ours, merged, kl = conversations.ratios(sums, tokens)
    increase = difference(merged, ours, lower_is_better=True)
    return {"loss_increase": dict(zip(("value", "low", "high"), increase, strict=True)), "kl": _numbers(kl), **costs}


def judge(
    costs: Mapping[str, Costs], broken_rails: Mapping[str, Sequence[str]], limits: Mapping[str, float]
) -> dict[str, Any]:
    """Return the check `gguf_gate`, with the failures of each type under `failures`.

    limits: GgufLimits. broken_rails: by type, those that the merged model passes and the file does not.
    """
    failures = {name: gate_failures(costs[name], broken_rails[name], limits) for name in costs}
    failed = [f"{name}: {'; '.join(reasons)}" for name, reasons in failures.items() if reasons]
    message = ". ".join(failed) if failed else f"{', '.join(costs)} within the limits"
    return {"passed": not failed, "blocking": False, "message": message, "failures": failures}


def gate_failures(costs: Costs, broken_rails: Sequence[str], limits: Mapping[str, float]) -> list[str]:
    """Return what a file fails, as clauses with the number and the limit. Arguments as in `judge`, of one type."""
    increase, kl = costs["loss_increase"], costs["kl"]
    bound = increase["value"] if increase["high"] is None else increase["high"]
    failures = []
    if bound > limits["max_loss_increase"]:
        failures.append(
            f"its loss may be {bound:.4f} nats per token higher, more than max_loss_increase "
            f"{limits['max_loss_increase']:g}"
        )
    if kl["value"] > limits["max_kl"]:
        failures.append(f"its KL from the merged model is {kl['value']:.4f}, more than max_kl {limits['max_kl']:g}")
    return failures + [f"it breaks the rail {rail}, which the merged model passes" for rail in broken_rails]


def _columns(records: Sequence[Mapping[str, Any]], *names: str) -> Any:
    return np.array([[record[name] for name in names] for record in records], dtype=float)


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    score = interval(estimate)
    return {"value": score.value, "low": score.low, "high": score.high}
