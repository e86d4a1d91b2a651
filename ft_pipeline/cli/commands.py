"""The commands that have no file of their own: projects, runs, the UI, the comparison, checks of files, SQL."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from ft_pipeline import doctor as machine_checks
from ft_pipeline import scaffold
from ft_pipeline.cli import display
from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import (
    FAILED,
    REFUSED,
    experiment_names,
    home_path,
    project_option,
    stderr,
    stdout,
    warn_of_changed_evidence,
)
from ft_pipeline.cli.display_comparison import show_comparison, show_validation_scores
from ft_pipeline.cli.display_outcome import show_outcome
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_sections import show_section
from ft_pipeline.cli.display_tables import print_rows
from ft_pipeline.cli.display_text import plain, say, say_line
from ft_pipeline.decide.documents import comparison_of, decision_about
from ft_pipeline.decide.requirements import Requirements
from ft_pipeline.errors import UserError
from ft_pipeline.features import choice
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.tables.formats.registry import FORMATS

if TYPE_CHECKING:
    from ft_pipeline.store.signing import SigningKey


@command
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to create. It must be new or empty.")],
    example: Annotated[bool, typer.Option("--example", help="Include the worked example's data and settings.")] = False,
    example_of: Annotated[
        str | None,
        typer.Option("--example-of", help="Include a small example instead: `extraction` or `classification`."),
    ] = None,
) -> None:
    """Create a project folder that is ready to run.

    Example: ft init ../support --example
    """
    from ft_pipeline.store.journal import sign_new_store

    if example and example_of is not None:
        raise UserError("--example and --example-of are two examples. Name one of them.")
    root = scaffold.create(directory, example, example_of)
    _show_new_key(sign_new_store(Project(root).store))
    say(stdout, f"Created the project folder {plain(str(directory))}. Next:")
    if not example and example_of is None:
        say(stdout, f"  put your files into {plain(str(directory))}/data/raw")
    say_line(stdout, f"  ft run{project_option(directory)}")


def _show_new_key(key: "SigningKey | None") -> None:
    """Say where the key of a new store is."""
    if key is not None:
        say(stderr, f"Created the signing key of this store: {plain(home_path(key.path))}. Back it up (docs/audit.md).")


@command
def doctor(project: Project) -> Answer:
    """Check this machine: GPU, compute type and its measured speed, memory, packages, embedded model, Dagster instance,
    disk and port. Each problem is shown with its fix.

    Example: ft doctor
    """
    findings = list(machine_checks.examine(project))
    document = {"findings": [finding.to_json() for finding in findings]}
    code = FAILED if any(finding.status == "problem" for finding in findings) else 0
    return Answer(document, lambda console, _: display.show_findings(console, findings), code)


@command
def run(
    context: typer.Context,
    project: UnopenedProject,
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            "--experiment",
            "-e",
            help="Run this experiment. Repeat for several (default: all except broken ones).",
            autocompletion=experiment_names,
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option("--select", help="Run only these assets (comma-separated names).")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Show which steps would run and why, without running them. (`ft plan` shows time and money.)"
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Rebuild the selected assets even if the store already has them.")
    ] = False,
) -> Answer:
    """Materialize every asset that is missing, stale or failed, with live progress and a summary at the end.

    Example: ft run --experiment qlora
    """
    from ft_pipeline.execution import run as running
    from ft_pipeline.execution.workers.launchers import check_environment
    from ft_pipeline.store.journal import sign_new_store

    if context.args:
        raise UserError(f"`ft run` takes no name, but got {context.args[0]!r}. Write: ft run -e {context.args[0]}")
    opened = project.open()
    assets = tuple(select.split(",")) if select else ()
    request = running.RunRequest(opened, tuple(experiment or ()), assets, force)
    if plan:
        planned = running.plan_run(request)
        document = {"plan": [vars(step) | {"runs": step.runs} for step in planned]}
        return Answer(document, lambda console, _: display.show_plan(console, planned))
    check_environment()
    _show_new_key(sign_new_store(opened.store))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` ignores it, and `ft cancel` sends it
    with live_progress(stderr):
        outcome = running.run(request)
    return Answer(
        outcome.to_json(),
        lambda console, _: show_outcome(console, outcome, project_option(project.folder)),
        0 if outcome.succeeded else FAILED,
    )


@command
def ui(
    project: Project,
    port: Annotated[int, typer.Option("--port", "-p", help="Port on 127.0.0.1.")] = machine_checks.UI_PORT,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Start a UI for auditors, in which nothing can be launched or changed.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name that a proxy sends in the header Host. By default that of notifications.ui_url."),
    ] = None,
) -> None:
    """Start the Dagster UI and daemon on 127.0.0.1.

    Example: ft ui --port 3001
    """
    from ft_pipeline.execution import instance
    from ft_pipeline.execution.device_pool import set_default_limit
    from ft_pipeline.execution.local_page import require_free_port
    from ft_pipeline.execution.partitions import add_partitions
    from ft_pipeline.execution.workers.launchers import check_environment
    from ft_pipeline.store.journal import sign_new_store

    instance.require_writable(project.dagster_home)
    if not read_only:
        check_environment()
        _show_new_key(sign_new_store(project.store))
        instance.lock_ui(project.dagster_home).keep_after_exec()
    workspace = project.root / "workspace.yaml"
    if not workspace.is_file():
        raise UserError(f"{workspace} is missing. Copy it from another project, or from a new one (`ft init`).")
    require_free_port("127.0.0.1", port)
    # This creates Dagster's tables, so that its processes and a first `ft run` do not do so at the same time.
    with instance.open_instance() as opened_instance:
        set_default_limit(opened_instance)
        if not read_only:
            with suppress(UserError):  # of project.yaml: each run reports it
                add_partitions(opened_instance, project.experiment_names())
    os.environ["PYTHONWARNINGS"] = "ignore"
    arguments = ["--workspace", str(workspace), "--port", str(port)]
    arguments += [argument for name in allow_host or () for argument in ("--allow-host", name)]
    say(stderr, "Starting the Dagster UI. It loads the graph first; its address follows.")
    os.chdir(project.root)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's `&` ignores it, and then Dagster would ignore SIGTERM too
    # -P: files in the project folder do not shadow packages.
    program = [sys.executable, "-P", "-m", "ft_pipeline.execution.ui_server"]
    os.execv(sys.executable, [*program, "--read-only" if read_only else "--daemon", *arguments])


@command
def experiments(project: Project) -> Answer:
    """List the experiments with their objective, technique, base model, state and primary score.

    Example: ft experiments
    """
    from ft_pipeline.execution.experiment_list import list_experiments

    rows = list_experiments(project)
    return Answer({"experiments": rows}, lambda console, _: display.show_experiments(console, rows))


@command
def compare(
    project: UnopenedProject,
    on: Annotated[
        Literal["test", "validation"],
        typer.Option("--on", help="Rows. On the validation rows you may look as often as you like."),
    ] = "test",
    logs: Annotated[
        list[str] | None,
        typer.Option("--from", help="Compare logs of other tools instead: PATH or NAME=PATH. Needs no project."),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="With --from: the metric that decides.")] = None,
    looks: Annotated[
        Path | None, typer.Option("--looks", help="With --from: a file that counts comparisons on the same items.")
    ] = None,
) -> Answer:
    """Show the comparison: every model and prompt with its scores, intervals and cost.

    Example: ft compare --on validation
    """
    if logs and (compare_logs := choice("compare", "logs")) is not None:
        answer: Answer = compare_logs(logs, metric, looks)
        return answer
    for option, value in {"--metric": metric, "--looks": looks}.items():
        if value is not None:
            raise UserError(f"{option} is for logs of other tools. Name them with --from.")
    opened = project.open()
    comparison = comparison_of(_require_document(opened, "comparison"))
    store = ArtifactStore(opened.store)
    requirements = Requirements.of(decision_about(store, current_artifact(store, "comparison")))

    def show(console: Console, _: dict[str, Any]) -> None:
        if on == "validation":
            show_validation_scores(console, comparison)
        else:
            show_comparison(console, comparison)
            show_section(console, requirements.section())

    return Answer(comparison.to_json() | requirements.model_dump(include={"matrix"}, exclude_defaults=True), show)


@command
def recommend(project: Project) -> Answer:
    """Show the recommendation and the reasons for it.

    Example: ft recommend
    """
    return Answer(_require_document(project, "recommendation"), display.show_recommendation)


@command
def validate(
    path: Annotated[Path, typer.Argument(help="File to check.")],
    data_format: Annotated[str, typer.Option("--format", help=f"Format of its rows: {', '.join(FORMATS)}.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Set aside rows that are also in this file.")
    ] = None,
) -> Answer:
    """Check a file and report what the pipeline would do with its rows, without running it.

    A YAML that names a remote source is checked with the file that it names.

    Example: ft validate my_rows.jsonl --format alpaca
    """
    from ft_pipeline.sources.fetch import local_file
    from ft_pipeline.tables.validate import validate_file

    if data_format not in FORMATS:
        raise UserError(f"Unknown format {data_format!r}. Choose one of {', '.join(FORMATS)}.")
    with local_file(path) as file:
        result = validate_file(file, data_format, data_dir=file.parent, against=against)
    return Answer(result.to_json(), display.show_validation, REFUSED if result.refused else 0)


@command
def sql(
    project: Project,
    as_json: bool,
    query: Annotated[str, typer.Argument(help="DuckDB query over the views quarantine, conversations, …")],
) -> None:
    """Query the tables with SQL, read-only.

    Example: ft sql "select code, count(*) from quarantine group by code"
    """
    from ft_pipeline.store.sql_views import query as run_query

    columns, rows = run_query(ArtifactStore(project.store), query)
    document = {"columns": columns, "rows": rows}
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        print_rows(stdout, columns, rows)
        say(stdout, f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}")


def _require_document(project: Project, asset: str) -> Any:
    """Return the document of an asset's current artifact, and warn if it, or what it was made from, was changed.
    UserError if there is none."""
    store = ArtifactStore(project.store)
    artifact = current_artifact(store, asset)
    if artifact is None:
        raise UserError(f"There is no {asset} yet. Run `ft run`.")
    warn_of_changed_evidence(store, [artifact.reference])
    return artifact.document(f"{asset}.json")
