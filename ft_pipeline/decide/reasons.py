"""The reasons of a decision as sentences."""

from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.promote import Court, Decision
from ft_pipeline.decide.words import describe_lead, say_all, who_of, wins


def reasons(court: Court, decision: Decision) -> list[str]:
    """Return a line per examined row: what it fails, or, of the released one, what it beats."""
    comparison, failed = court.comparison, decision.failed
    if decision.move and decision.name:
        before = [f"{name}: {'; '.join(say_all(comparison, failed[name]))}" for name in decision.passed_over]
        win = describe_win(court, _row(court, decision.name))
        simpler = f"; it is simpler than {decision.keeps_lead_of}, and is shown to keep most of its lead"
        return [*before, win + (simpler if decision.keeps_lead_of else "")]
    lines = [f"{name}: {'; '.join(say_all(comparison, claims))}" for name, claims in failed.items()]
    if end := court.exposure.describe_end(comparison.test_rows, court.settings.false_moves):
        lines.append(end)
    return [*(lines or ["the comparison has no row that can be released"]), *champion_notes(court, with_fix=True)]


def describe_win(court: Court, row: Row) -> str:
    """Return the rivals that a row beats, and by what, as a sentence."""
    comparison, preferred, beaten = court.comparison, [], []
    rivals = {rival.name: rival for rival in (comparison.bar(row), court.champion_row) if rival is not None}
    for rival in rivals.values():
        claim = comparison.deciding(row, rival)
        if comparison.why_screened_out(rival) is not None:
            beaten.append(_named(court, row, rival))
        elif claim.kind == "opinion":
            preferred.append(f"is preferred in {wins(claim)} by {who_of(claim)}")
        elif comparison.leads(row, rival):
            beaten.append(f"{_named(court, row, rival)} by {describe_lead(claim)}")
    by_metric = [f"beats {', '.join(beaten)} on {comparison.metric().label}"] if beaten else []
    trained_once = row.rights.is_tuned and not comparison.about(row, "recipe")
    notes = ["one training: this speaks for these weights, not for the recipe"] if trained_once else []
    return "; ".join([f"{row.name} {' and '.join([*preferred, *by_metric])}", *notes, *champion_notes(court)])


def champion_notes(court: Court, *, with_fix: bool = False) -> list[str]:
    """Return that the champion is not compared because it learned from test rows. with_fix: it stays; what to do."""
    if court.contaminated is None or court.champion is None:
        return []
    champion, fix = ("champion", f". {court.contaminated.fix}") if with_fix else ("previous champion", "")
    return [f"the {champion} {court.champion.name} is not compared: it {court.contaminated.because}{fix}"]


def _named(court: Court, row: Row, rival: Row) -> str:
    bar = court.comparison.bar(row)
    if bar is not None and rival.name == bar.name:
        return rival.name
    return f"{rival.name}, the champion trained again," if court.contaminated is not None else "the previous champion"


def _row(court: Court, name: str) -> Row:
    row = court.comparison.row(name)
    assert row is not None
    return row
