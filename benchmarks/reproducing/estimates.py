"""Losses of the runs with 95 % intervals: over held-out rows and seeds, paired between the runs.

Each resample draws held-out rows (the same for all runs, see bootstrap.py) and, where a
configuration was trained with every seed, seeds (the same for all configurations). What makes a row or a seed hard for
all cancels out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from reproducing.bootstrap import Bootstrap, Estimate, Floats
from reproducing.trainings import Arm, Training, mean_loss, window

BASE = "untouched base"
RESAMPLES = 10_000
Runs = Mapping[str, Mapping[str, Any]]
"""Finished runs by key."""


class Estimates:
    """Held-out losses (nats per answer token) and divergences of finished runs."""

    def __init__(self, runs: Runs, seeds: Sequence[int], resamples: int = RESAMPLES) -> None:
        self.runs = runs
        self.seeds = list(seeds)
        random = np.random.default_rng(0)
        self._picks = random.integers(0, len(seeds), (resamples, len(seeds)))
        self._by_key = self._resampled(resamples)

    def _resampled(self, resamples: int) -> dict[str, Estimate]:
        columns: dict[str, tuple[Sequence[float], Sequence[int]]] = {
            key: (run["loss_sums"], run["tokens"]) for key, run in self.runs.items() if not run.get("diverged")
        }
        base = self.runs.get(BASE, {})
        for name, sums in base.get("kl_sums", {}).items():
            columns[_kl(name)] = (sums, base["tokens"])
        if not columns:
            return {}
        sums, tokens = (np.array(part, dtype=np.float64).T for part in zip(*columns.values(), strict=True))
        bootstrap = Bootstrap([str(row) for row in range(len(sums))], resamples, seed=0)
        return dict(zip(columns, bootstrap.ratios(sums, tokens), strict=True))

    def base(self) -> Estimate:
        """Loss of the untouched base."""
        return self._by_key[BASE]

    def divergence(self, arm: Arm) -> Estimate:
        """KL(base || 4-bit base of `arm`), nats per answer token."""
        return self._by_key[_kl(arm.name)]

    def has_base(self) -> bool:
        return BASE in self._by_key

    def keys(self, arm: Arm, rate: float) -> list[str]:
        """The finished runs of a configuration, in the order of the seeds."""
        keys = (Training(arm, rate, seed).key for seed in self.seeds)
        return [key for key in keys if key in self.runs]

    def loss(self, arm: Arm, rate: float) -> Estimate | None:
        """Mean over the seeds; None where it is not finished, or one of its seeds diverged."""
        keys = self.keys(arm, rate)
        if not keys or any(key not in self._by_key for key in keys):
            return None
        by_seed = [self._by_key[key] for key in keys]
        value = float(np.mean([estimate.value for estimate in by_seed]))
        draws = np.stack([estimate.draws for estimate in by_seed])
        if len(keys) < len(self.seeds):
            return Estimate(value, draws.mean(axis=0))
        return Estimate(value, np.take_along_axis(draws, self._picks.T, axis=0).mean(axis=0))

    def sweep(self, arm: Arm) -> list[float] | None:
        """Loss of the first seed by rate, infinite where it diverged; None where a rate is not finished."""
        keys = [Training(arm, rate, self.seeds[0]).key for rate in arm.rates]
        return [mean_loss(self.runs[key]) for key in keys] if all(key in self.runs for key in keys) else None

    def window(self, arm: Arm) -> list[float] | None:
        """The rates around the lowest loss, once each has all its seeds and none of them diverged."""
        if (sweep := self.sweep(arm)) is None:
            return None
        rates = [arm.rates[place] for place in window(sweep)]
        done = all(len(self.keys(arm, rate)) == len(self.seeds) for rate in rates)
        return rates if done and all(self.loss(arm, rate) for rate in rates) else None

    def best_rate(self, arm: Arm) -> float | None:
        """The trained rate of the lowest mean loss, out of the window."""
        rates = self.window(arm)
        if rates is None:
            return None
        losses = {rate: estimate.value for rate in rates if (estimate := self.loss(arm, rate))}
        return min(losses, key=losses.__getitem__)


def _kl(name: str) -> str:
    return f"KL of {name}"


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of several, draw by draw."""
    return combine([1 / len(estimates)] * len(estimates), estimates)


def combine(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """The weighted sum of several, draw by draw."""
    pairs = list(zip(weights, estimates, strict=True))
    draws = sum((weight * estimate.draws for weight, estimate in pairs), start=np.zeros(len(pairs[0][1].draws)))
    return Estimate(sum(weight * estimate.value for weight, estimate in pairs), draws)


def ratio(top: Estimate, bottom: Estimate) -> Estimate:
    """One by the other, draw by draw."""
    return Estimate(top.value / bottom.value, top.draws / bottom.draws)


def optimum(rates: Sequence[float], losses: Sequence[Estimate]) -> Estimate:
    """The learning rate of the lowest loss, by a parabola in log(rate) through three points, draw by draw.

    It stays within `rates`. Where the points do not bend upwards it is the rate of the lowest point.
    """
    value = _vertices(rates, np.array([[estimate.value] for estimate in losses]))
    draws = _vertices(rates, np.stack([estimate.draws for estimate in losses]))
    return Estimate(float(value[0]), draws)


def _vertices(rates: Sequence[float], losses: Floats) -> Floats:
    """losses: [3, draws]; the rates [draws]."""
    places = np.log(np.array(rates, dtype=np.float64))
    curvature, slope, _ = np.polyfit(places, losses, 2)
    bends = curvature > 0
    vertex = np.where(bends, -slope / (2 * np.where(bends, curvature, 1.0)), places[losses.argmin(axis=0)])
    return np.exp(np.clip(vertex, places[0], places[-1]))
