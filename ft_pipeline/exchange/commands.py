"""`ft import` and `ft export-data`: projects and rows in, rows out.

The importers are loaded by their commands, because every `ft` command loads this module.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command, print_answer
from ft_pipeline.cli.display_tables import new_table, print_texts
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.exchange.export_rows import FORMATS, export_rows
from ft_pipeline.exchange.new_project import Choices, Plan, require_free, write_project
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore

TITLES = {
    "taken_over": "taken over",
    "changed": "became something else",
    "no_counterpart": "no counterpart here",
    "ignored": "not needed",
}
STYLES = {"taken_over": "green", "changed": "yellow", "no_counterpart": "red", "ignored": "dim"}


importer = typer.Typer(no_args_is_help=True)

IntoOption = Annotated[Path, typer.Option("--into", help="Project folder to create. It must be new or empty.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace the project folder, if it is a project without results.")
]
BaseModelOption = Annotated[
    str | None,
    typer.Option("--base-model", help="Base model of all experiments: a hub id, a folder, or `embedded`."),
]
RemoteOption = Annotated[
    bool,
    typer.Option("--remote", help="Name data sets that are not here as remote sources, instead of leaving them out."),
]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option("--dataset", help="Take over this data set too, which no experiment uses. Repeat for several."),
]


@importer.callback()
def imported() -> None:
    """Make a project from what you have: files, settings, data."""


@importer.command()
@command
def llamafactory(
    path: Annotated[Path, typer.Argument(help="Folder with dataset_info.json and YAML files, or one YAML file.")],
    into: IntoOption,
    force: ForceOption = False,
    base_model: BaseModelOption = None,
    remote: RemoteOption = False,
    dataset: DatasetOption = None,
) -> Answer:
    """Make a project from a LLaMA-Factory project, and show what was taken over.

    Example: ft import llamafactory ../LLaMA-Factory --into ../support
    """
    from ft_pipeline.exchange.llamafactory_import import plan_llamafactory

    return _write(plan_llamafactory(path, tuple(dataset or ())), Choices(into, force, base_model, remote))


@importer.command()
@command
def axolotl(
    path: Annotated[Path, typer.Argument(help="Folder with YAML and data files, or one YAML file.")],
    into: IntoOption,
    force: ForceOption = False,
    base_model: BaseModelOption = None,
    remote: RemoteOption = False,
    dataset: DatasetOption = None,
) -> Answer:
    """Make a project from an Axolotl project, and show what was taken over.

    Example: ft import axolotl recipes/support.yaml --into ../support
    """
    from ft_pipeline.exchange.axolotl_import import plan_axolotl

    return _write(plan_axolotl(path, tuple(dataset or ())), Choices(into, force, base_model, remote))


@importer.command()
@command
def openai(
    paths: Annotated[list[Path], typer.Argument(help="JSONL files, job files, or folders of them.")],
    into: IntoOption,
    force: ForceOption = False,
    base_model: BaseModelOption = None,
    tuned_model: Annotated[
        str | None,
        typer.Option("--tuned-model", help="Compare with this model, ft:…, which answers today (default: of the job)."),
    ] = None,
) -> Answer:
    """Make a project from the files of a fine-tuning API (OpenAI, Azure, Together, Fireworks, Mistral), and show what
    was taken over. The keys of a row show whether it is a chat, preference or reinforcement row.

    Example: ft import openai train.jsonl validation.jsonl job.json --into ../support
    """
    from ft_pipeline.exchange.openai_import import plan_openai

    return _write(plan_openai(paths, tuned_model), Choices(into, force, base_model))


@importer.command()
@command
def traces(
    as_json: bool,
    paths: Annotated[list[Path], typer.Argument(help="Files of request logs or traces.")],
    into: IntoOption,
    force: ForceOption = False,
    base_model: BaseModelOption = None,
) -> None:
    """Make a project from logs of an application: of several workloads, a project for each in a folder of its name.

    Example: ft import traces monday.jsonl tuesday.jsonl --into ../support
    """
    from ft_pipeline.exchange.traces_import import plan_traces

    with tempfile.TemporaryDirectory(prefix="ft-import-") as work:
        plans = plan_traces(paths, Path(work))
        for name in plans:
            require_free(into / name, force)
        for name, plan in plans.items():
            print_answer(_write(plan, Choices(into / name, force, base_model)), as_json)


@command
def export_data(
    project: Project,
    out: Annotated[Path, typer.Argument(help="File to write. It must be new.")],
    data_format: Annotated[str, typer.Option("--format", help=f"Shape of its rows: {', '.join(FORMATS)}.")],
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Only the rows of this split: train, validation or test. Repeat for several."),
    ] = None,
) -> Answer:
    """Write the accepted conversations to a file for another tool, with the origin of each row.

    Example: ft export-data --format openai --split train rows.jsonl
    """
    report = export_rows(ArtifactStore(project.store), out, data_format, tuple(split or ()))
    return Answer(report.to_json(), show_export)


def _write(plan: Plan, choices: Choices) -> Answer:
    report = write_project(plan, choices)
    return Answer({"project": str(choices.into.expanduser().resolve()), **report.to_json()}, show_import)


def show_import(console: Console, document: dict[str, Any]) -> None:
    """Print what was taken over, what became something else, and what has no counterpart."""
    for kind, title in TITLES.items():
        lines = [line for line in document["lines"] if line["kind"] == kind]
        if not lines:
            continue
        columns = ["from", "theirs", *(["ours"] if kind in ("taken_over", "changed") else [])]
        columns += ["effect"] if kind != "taken_over" else []
        table = new_table(*columns)
        for line in lines:
            cells = [_sources(line["sources"]), line["theirs"], line["ours"], line["effect"]]
            shown = [cells[("from", "theirs", "ours", "effect").index(column)] for column in columns]
            table.add_row(*map(plain, shown))
        say(console, f"[{STYLES[kind]}]{title}[/]")
        print_texts(console, table)
        console.print()
    experiments = ", ".join(document["experiments"])
    say(console, f"Created the project folder {document['project']}, with the experiments {experiments}.")
    say(console, f"Next: ft validate the files in data/raw, then ft run --project {document['project']}")


def _sources(sources: list[str]) -> str:
    sources = [source for source in sources if source]
    return sources[0] if len(sources) == 1 else f"{len(sources)} files" if sources else ""


def show_export(console: Console, document: dict[str, Any]) -> None:
    """Print what `ft export-data` wrote, and which rows the format cannot hold."""
    splits = ", ".join(f"{name} {count:,}" for name, count in document["splits"].items())
    say(
        console, f"Wrote {document['written']:,} rows{f' ({splits})' if splits else ''}: {', '.join(document['files'])}"
    )
    for reason, count in document["left_out"].items():
        named = document["left_out_rows"][reason]
        more = f" and {count - len(named):,} more" if count > len(named) else ""
        console.print(plain(f"Left out, since the format cannot hold {reason}: {count:,} ({', '.join(named)}{more})"))
    for key, count in document["extra_keys"].items():
        say(console, f"{count:,} rows have the key `{key}`, which some readers ignore.")
