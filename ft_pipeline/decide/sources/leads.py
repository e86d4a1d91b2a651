"""Leads on the test conversations: of every two rows on every metric, and what follows from the primary ones."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from ft_pipeline.decide.bench import ONE_SIDED, Bench, Config
from ft_pipeline.decide.claim import Claim, ShareFacts, verdict_of
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.kinds import KINDS
from ft_pipeline.decide.likelihood_evidence import LIKELIHOODS, why_no_evidence
from ft_pipeline.decide.units import scaled
from ft_pipeline.evaluation.comparison.estimates import Estimates, rank
from ft_pipeline.evaluation.comparison.leads import bounds, p_value
from ft_pipeline.evaluation.comparison.result_records import Incomparable
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import PER_TOKEN, Metric


def claims(bench: Bench) -> Iterator[Claim]:
    """Yield the lead of the better one of every two rows, the primary metric first; `unknown`, where they cannot be
    compared. That of a row which may be released is tested on the primary metric."""
    primary, rows = bench.comparison.primary, {row.name: row for row in bench.comparison.rows}
    noise = bench.comparison.scored_twice.spread if bench.comparison.scored_twice else 0.0
    for metric in dict.fromkeys((primary, *bench.comparison.metrics)):
        measured = [name for name in rows if bench.has(metric, name)]
        names = rank(bench.comparison.metric(metric), metric, {name: bench.estimates[name] for name in measured})
        for better, worse in combinations(names, 2):
            if because := _why_not(bench, rows[better], rows[worse], metric):
                yield _unknown(better, worse, metric, because)
                continue
            values = bench.values(better, worse, metric)
            low, high = bounds(values, highest=bench.comparison.metric(metric).highest)
            value, verdict = bench.gain(better, worse, metric), verdict_of(low, high)
            is_noise = verdict == "shown" and metric == primary and value <= noise
            is_tested = metric == primary and rows[better].rights.is_candidate
            yield Claim(
                kind="lead",
                row=better,
                rival=worse,
                measure=metric,
                value=value,
                low=low,
                high=high,
                p=p_value(values) if is_tested else None,
                count=len(values),
                verdict="open" if is_noise else verdict,
                because="noise" if is_noise else "",
            )
    if primary in LIKELIHOODS:
        for one, other in combinations(rows.values(), 2):
            if not bench.has(primary, one.name, other.name) and _is_silent(bench, one, other):
                yield _unknown(one.name, other.name, primary, "no_evidence")


def _unknown(row: str, rival: str, metric: str, because: str) -> Claim:
    known = {"kind": "lead", "row": row, "rival": rival, "measure": metric, "verdict": "unknown"}
    return Claim(**known, because=because)


def _why_not(bench: Bench, one: Row, other: Row, metric: str) -> str:
    """Return why two rows that have a metric cannot be compared on it; empty if they can."""
    first, second = (bench.row_models[row.name] for row in (one, other))
    if metric in PER_TOKEN and first.tokens != second.tokens:
        return "tokens"
    return "no_evidence" if metric in LIKELIHOODS and _is_silent(bench, one, other) else ""


def _is_silent(bench: Bench, one: Row, other: Row) -> bool:
    """Return whether a likelihood says nothing about two rows, unless the project names it."""
    return bench.config.primary_metric not in LIKELIHOODS and why_no_evidence(one, other) is not None


def incomparable(
    models: Sequence[ScoredModel], estimates: Estimates, primary: str, metrics: Mapping[str, Metric], config: Config
) -> list[Incomparable]:
    """Return the models that cannot be paired on a metric that one of them has, and why; the primary metric first."""
    by_name, found = {model.name: model for model in models}, []
    for metric in dict.fromkeys((primary, *metrics)):
        measured = {name: by_metric for name, by_metric in estimates.items() if metric in by_metric}
        for one, other in combinations(rank(metrics[metric], metric, measured), 2):
            if because := _why_unpaired(by_name[one], by_name[other], metric, config):
                found.append(Incomparable(a=one, b=other, metric=metric, because=because))
        lacking = [name for name in estimates if name not in measured]
        found += [
            Incomparable(a=name, b=other, metric=metric, because=because)
            for name in lacking
            if measured and (because := _why_missing(by_name[name], metric))
            for other in estimates
            if other != name and (other not in lacking or other > name)
        ]
    return found


def _why_unpaired(first: ScoredModel, second: ScoredModel, metric: str, config: Config) -> str | None:
    """Return why two models that have a metric cannot be paired on it; None if they can."""
    if metric in PER_TOKEN and first.tokens != second.tokens:
        parts = [name for name in ("vocabulary", "template") if first.parts.get(name) != second.parts.get(name)]
        return f"another {' and '.join(parts)}: a loss per token is not comparable"
    is_named = config.primary_metric in LIKELIHOODS
    return why_no_evidence(first, second) if metric in LIKELIHOODS and not is_named else None


def _why_missing(model: ScoredModel, metric: str) -> str | None:
    """Return why a model cannot have a metric; None if it just was not measured."""
    if reason := model.row.get("withheld", {}).get(metric):
        return str(reason)
    if metric not in LIKELIHOODS:
        return None
    if model.kind in ("teacher", "contender"):
        return "its server gives no likelihoods"
    if model.kind == "calibrated":
        return "it chooses among labels"
    if KINDS[model.kind].without_model:
        return "it has no language model"
    return "its template ends a turn without a control token" if metric == "stop_nats" else None


def answers(bench: Bench) -> Iterator[Claim]:
    """Yield the second key, where a likelihood decides: whether the answers of a row are not worse than those of a
    rival that it leads."""
    key, margin = bench.second_key, bench.config.answers_margin
    for lead in _leads_of_candidates(bench):
        if key and bench.has(key, lead.row, lead.rival):
            yield _not_worse(bench, "answers", lead.row, lead.rival, key, margin)


def replaces(bench: Bench) -> Iterator[Claim]:
    """Yield whether each row of one's own is not worse than what answers today, by what decides between them."""
    incumbent = next((row for row in bench.comparison.rows if row.incumbent), None)
    metric = bench.comparison.primary
    for row in bench.comparison.rows:
        if incumbent is None or row.name == incumbent.name:
            continue
        claim = bench.comparison.deciding(row, incumbent)
        margin = bench.config.incumbent_margin
        if claim.kind == "opinion":
            value, low = (None if end is None else end - claim.limit for end in (claim.value, claim.low))
            known = {"kind": "replaces", "row": row.name, "rival": incumbent.name, "measure": claim.measure}
            ends = {"value": value, "low": low, "limit": -margin, "verdict": verdict_of(low, None, -margin)}
            yield Claim(**known, **ends, count=claim.count)
        elif claim.because != "no_evidence" and _is_ours(row) and bench.has(metric, row.name, incumbent.name):
            limit = scaled(bench.comparison, margin, incumbent)
            yield _not_worse(bench, "replaces", row.name, incumbent.name, metric, limit)


def _is_ours(row: Row) -> bool:
    return row.rights.is_candidate or row.kind == "champion"


def _not_worse(bench: Bench, kind: str, row: str, rival: str, metric: str, margin: float, scope: str = "") -> Claim:
    """Return the claim that a row is not worse than a rival by more than a margin."""
    values = bench.values(row, rival, metric)
    low = bounds(values, ONE_SIDED, highest=bench.comparison.metric(metric).highest)[0]
    known = {"kind": kind, "row": row, "rival": rival, "measure": metric, "scope": scope, "count": len(values)}
    return Claim(**known, value=float(values.mean()), low=low, limit=-margin, verdict=verdict_of(low, None, -margin))


def shares(bench: Bench) -> Iterator[Claim]:
    """Yield, for each sound tuned row other than the best one, whether it keeps the wanted share of its lead.

    "Not clearly worse" would accept a technique that keeps 60 % of the lead in most small comparisons. The combination
    lead - wanted · best lead is a lead too: of each conversation, so that its bound needs no further assumption.
    """
    comparison, wanted = bench.comparison, bench.config.keeps
    rows = [row for row in comparison.tuned() if comparison.sound(row) and _is_measured(bench, row)]
    rows = [row for row in rows if row.base_model == rows[0].base_model]  # another base has another baseline
    bar = comparison.best_bar(rows[0]) if rows else None
    if bar is None or not rows or (lead := comparison.lead(rows[0], bar)) is None or not lead.is_ahead:
        return
    best = bench.values(rows[0].name, bar.name)
    for row in rows[1:]:
        values = bench.values(row.name, bar.name)
        low = bounds(values - wanted * best, ONE_SIDED)[0]
        yield Claim(
            kind="share",
            row=row.name,
            rival=rows[0].name,
            measure=comparison.primary,
            value=float(values.mean() / best.mean()),
            low=low,
            count=len(values),
            verdict=verdict_of(low, None),
            facts=ShareFacts(wanted=wanted, baseline=bar.name),
        )


def _is_measured(bench: Bench, row: Row) -> bool:
    bar = bench.comparison.best_bar(row)
    lead = bench.comparison.lead(row, bar) if bar else None
    return lead is None or lead.because != "no_evidence"


def _leads_of_candidates(bench: Bench) -> Iterator[Claim]:
    """Yield the leads on the primary metric of the rows that may be released."""
    for row in bench.comparison.rows:
        if row.rights.is_candidate:
            leads = bench.comparison.about(row, "lead", measure=bench.comparison.primary)
            yield from (lead for lead in leads if lead.verdict != "unknown")
