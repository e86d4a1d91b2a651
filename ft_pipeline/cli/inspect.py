"""`ft inspect`: the rows that a person should look at first."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import experiment_names
from ft_pipeline.cli.display_text import plain, say, say_line
from ft_pipeline.errors import UserError
from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.tables.formats.registry import FORMATS

INDENT = 12
"""Number of columns before a text."""


ANSWERED = ("conversations", *CONVERSATIONAL)
"""The tables of the test rows."""
TABLES = (*ANSWERED, *(name for name in FORMATS if name not in CONVERSATIONAL), "distilled")


@command
def inspect(
    project: UnopenedProject,
    table: Annotated[str, typer.Argument(help=f"Table: {', '.join(TABLES)}.")] = "conversations",
    experiment: Annotated[
        str | None,
        typer.Option(
            "--experiment",
            "-e",
            help="Experiment whose held-out loss is shown (default: the last scored).",
            autocompletion=experiment_names,
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Number of rows of each list.")] = 5,
) -> Answer:
    """Show the rows of a table to look at first: highest held-out loss, oddest, longest. Also shows its languages.

    Example: ft inspect conversations --experiment qlora
    """
    if table not in TABLES:
        raise UserError(f"There is no table {table!r}. Choose one of {', '.join(TABLES)}.")
    if experiment and table not in ANSWERED:
        raise UserError(
            f"--experiment cannot be used with the table {table}, which has no test rows. "
            f"Use one of {', '.join(ANSWERED)}."
        )
    opened = project.open()
    if experiment:
        opened.experiment(experiment)  # raises UserError for a name that does not exist
    document = _inspect(ArtifactStore(opened.store), table, experiment, count)
    has_test_rows = table in ANSWERED
    return Answer(document, partial(show_inspection, has_test_rows=has_test_rows))


def _inspect(store: ArtifactStore, table: str, experiment: str | None, count: int) -> dict[str, Any]:
    from ft_pipeline.evaluation.highest_loss import hardest_answers, newest_scored_experiment
    from ft_pipeline.tables.inspection import inspect_rows
    from ft_pipeline.tables.languages import identify_languages

    artifact = current_artifact(store, table)
    if artifact is None:
        raise UserError(f"The store has no valid table {table} yet. Run `ft run`.")
    scored = (experiment or newest_scored_experiment(store)) if table in ANSWERED else None
    scores = current_artifact(store, "scores", scored) if scored else None
    if experiment and scores is None:
        raise UserError(f"The experiment {experiment} has no scores yet. Run `ft run --experiment {experiment}`.")
    path = artifact.path / "rows.parquet"
    document = {
        "table": table,
        "languages": identify_languages(path, table).to_json(),
        **inspect_rows(path, table, count).to_json(),
        "held_out": None,
    }
    if scores is not None:
        baseline = current_artifact(store, "prompt_baseline", scored)
        only = table if table != "conversations" else None
        answers = hardest_answers(store, scores, baseline, count, only)
        if _are_seen(store, scores, f"{scored}/scores", answers.model):
            document["held_out"] = {"experiment": scored, **answers.to_json()}
        else:
            document["not_shown"] = f"{scored}/{answers.model}"
    return document


def _are_seen(store: ArtifactStore, scores: Artifact, source: str, model: str) -> bool:
    """Return whether people see the test answers of a tuned model: a comparison shows that it leads on the validation
    rows, or there are too few of these.

    source, model: where a comparison reads it from: the input, and its name there.
    """
    from ft_pipeline.decide.documents import read_comparison
    from ft_pipeline.decide.seen import are_tests_seen

    compared = current_artifact(store, "comparison")
    reads = compared is not None and compared.inputs.get(source) == scores.reference
    return are_tests_seen(scores.path, [(read_comparison(compared), source)] if compared and reads else [], model)


def show_inspection(console: Console, document: Mapping[str, Any], has_test_rows: bool) -> None:
    """Print the languages of the table, then each list with its rows.

    has_test_rows: whether the table can have answers with a held-out loss.
    """
    table, languages = plain(document["table"]), document["languages"]
    say(console, f"[bold]{table}[/]: {document['rows']:,} rows")
    if not document["rows"]:
        return
    shares = ", ".join(f"{name} {count:,}" for name, count in languages["counts"].items())
    say(console, f"Languages of {languages['sampled']:,} sampled rows: {plain(shares)}")
    if document["held_out"]:
        _show_held_out(console, document["held_out"])
    elif "not_shown" in document:
        model = plain(document["not_shown"])
        say(console, f"Held-out loss: not shown, because {model} is not known to lead on the validation rows.")
    elif has_test_rows:
        say(console, "Held-out loss: no experiment has scores yet. Run `ft run`.")
    _show_list(console, "Oddest", document["oddest"], "None: no row is far from the others in any measure.")
    _show_list(console, "Longest", document["longest"], "")
    example = (document["oddest"] or document["longest"])[0]
    where = f"file = '{example['file']}' and row = {example['row']}".replace('"', '\\"')
    say(console, "\nA whole row:")
    say_line(console, f'  ft sql "select * from {table} where {plain(where)}" --json')


def _show_held_out(console: Console, held_out: Mapping[str, Any]) -> None:
    model = plain(f"{held_out['experiment']}/{held_out['model']}")
    title = f"Highest held-out loss of {model} ({held_out['scored']:,} test answers)"
    _show_list(console, title, held_out["highest_loss"], "No test answer is from this table.")
    nothing = "None: no loss is higher than the base model's."
    if held_out["regressions"] is None:
        nothing = "Unknown: the base model was not scored on these rows."
    _show_list(console, f"Loss of {model} that rose most over the base model's", held_out["regressions"] or [], nothing)


def _show_list(console: Console, title: str, rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    say(console, f"\n[bold]{title}[/]")
    if not rows:
        console.print(nothing)
    for row in rows:
        say(console, f"  {plain(row['origin'])}  [dim]{plain(row['language'])}[/]  {plain(row['why'])}")
        _show_text(console, "prompt", row["prompt"])
        _show_text(console, "answer" if row["prompt"] else "text", row["answer"])
        _show_text(console, "model", row.get("model_answer", ""))


def _show_text(console: Console, name: str, text: str) -> None:
    """Print a text on one line, cut to the width of the terminal."""
    if text:
        line = plain(" ".join(text.split()))
        console.print(f"    [dim]{name:<{INDENT - 4}}[/]{line}", no_wrap=True, overflow="ellipsis")
