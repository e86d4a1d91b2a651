"""Output of `ft compare`."""

from rich.console import Console

from ft_pipeline.cli.display_sections import grid_table, show_section
from ft_pipeline.cli.display_tables import new_table, print_columns
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.sections import sections
from ft_pipeline.decide.sentences import standard_errors
from ft_pipeline.evaluation.comparison.score import describe_score
from ft_pipeline.evaluation.metrics.definitions import SHORT_TITLES

LOWER = "lower is better"


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the rows, with the 95 % intervals of the primary metric, and what else a comparison tells."""
    told = sections(comparison)
    grid = told["scores"].grid
    assert grid is not None
    say(console, plain(_legend(comparison)))
    print_columns(console, grid_table(grid))
    for section in told.values():
        show_section(console, section)


def _legend(comparison: Comparison) -> str:
    """Return what the columns mean."""
    shown = shown_metrics(comparison)
    lower = [SHORT_TITLES.get(name, name) for name, metric in shown.items() if metric.direction == LOWER]
    priced = any(row.cost_per_call is not None for row in comparison.rows)
    parts = [
        f"{comparison.test_items} test answers.",
        f"Lower is better for {', '.join(lower)}." if lower else "",
        "The first metric is the primary one, with its 95 % interval.",
        "Length: answer length divided by reference length; 1 is best." if "length_ratio" in shown else "",
        f"Prompt and generated: tokens per call.{' Cost: of 1,000 answers.' if priced else ''}",
    ]
    return " ".join(filter(None, parts))


def show_validation_scores(console: Console, comparison: Comparison) -> None:
    """Print the likelihood of the validation rows, best first, with the lead by which candidates are screened."""
    rows = sorted(
        (row for row in comparison.rows if row.validation),
        key=lambda row: row.validation.value if row.validation else 0,
    )
    if not rows:
        say(console, "No model was scored on the validation rows. Add validation rows, or run `ft run`.")
        return
    table = new_table("model", "nats/byte", "lead", right={"nats/byte"}, one_line={"model"})
    for row in rows:
        screen = next(iter(comparison.about(row, "screen")), None)
        errors = standard_errors(screen) if screen else None
        lead = f"{errors:+.1f} standard errors over {screen.rival}" if screen and errors is not None else ""
        value = describe_score(row.validation) if row.validation else ""
        table.add_row(plain(row.name), value, plain(lead))
    say(
        console,
        "Nats per byte of the validation rows: lower is better. Looking here uses up nothing; it decides nothing.",
    )
    console.print(table)
