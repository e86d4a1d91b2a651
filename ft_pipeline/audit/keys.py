"""`ft keys` and `ft anchor`: the key that signs the changes of the store, and a copy of the signed lines outside it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import checked_reason
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project

app = typer.Typer(invoke_without_command=True)

ReasonOption = Annotated[str, typer.Option("--reason", callback=checked_reason, help="Reason, kept in the journal.")]


@app.callback()
@command
def keys(context: typer.Context, project: UnopenedProject) -> Answer | None:
    """The key that signs the changes of the store."""
    return _state(project.open().store) if context.invoked_subcommand is None else None


@app.command()
@command
def new(project: Project, reason: ReasonOption) -> Answer:
    """Create a key for a store that has none, or a new one. A store that was not signed is signed as it is now.

    Example: ft keys new --reason "the old key was on a stolen laptop"
    """
    from ft_pipeline.store.journal import replace_key

    replace_key(project.store, _require(reason))
    return _state(project.store)


@app.command()
@command
def accept(project: Project, reason: ReasonOption) -> Answer:
    """Go on with a store whose journal ends before what this machine signed, such as a restored backup.

    Example: ft keys accept --reason "restored from the backup of Monday"
    """
    from ft_pipeline.store.journal import accept_state

    accept_state(project.store, _require(reason))
    return _state(project.store)


@command
def anchor(
    project: Project,
    target: Annotated[str, typer.Argument(help="File on another disk, or git+URL of a repository.")],
) -> Answer:
    """Copy the signed lines of the journal to a place outside the project, so that `ft audit --verify --anchor` finds
    what was dropped or rewritten since, even by somebody who has the key.

    Example: ft anchor git+ssh://git.example.com/anchors.git
    """
    from ft_pipeline.audit.anchor import write_anchor

    result = write_anchor(project.store, target)

    def show(console: Console, document: dict[str, Any]) -> None:
        say(
            console,
            f"Anchored {document['new']} new lines in {plain(target)}. It has {document['lines']}; the last is "
            f"{document['head']}.",
        )

    return Answer(vars(result), show)


def _require(reason: str) -> str:
    if not reason.strip():
        raise UserError("The reason is empty. State it for the journal: --reason TEXT")
    return reason.strip()


def _state(store: Path) -> Answer:
    return Answer(_describe(store), _show)


def _describe(store: Path) -> dict[str, Any]:
    from ft_pipeline.store.signature_check import check_signatures
    from ft_pipeline.store.signing import find_key, key_id_of, read_public_key

    public_pem = read_public_key(store)
    check = check_signatures(store, files=False)
    if public_pem is None and not check.is_signed:
        return {"key": None, "private_key": None, "public_key": None, "lines": 0, "faults": []}
    if public_pem is None:
        raise UserError("The public key of this store is missing. Run `ft audit --verify`, and restore it.")
    try:
        found = find_key(store)
        private, problem = (str(found.path) if found else None), None
    except UserError as error:
        private, problem = None, str(error)
    return {
        "key": key_id_of(public_pem),
        "private_key": private,
        "problem": problem,
        "public_key": str(store / "signing_key.pub"),
        "lines": len(check.content.entries),
        "faults": [str(fault) for fault in check.faults],
    }


def _show(console: Console, document: dict[str, Any]) -> None:
    if document["key"] is None:
        say(console, "This store is not signed. Create a key: ft keys new --reason TEXT")
        return
    say(console, f"Key {document['key']}, with {document['lines']} signed changes")
    say(console, f"public:  {plain(document['public_key'])}")
    private = document["private_key"] or document["problem"]
    say(console, f"private: {plain(private)}")
    for fault in document["faults"]:
        say(console, f"[red]✗ {plain(fault)}[/]")
    if document["private_key"]:
        say(console, "Back up the private key. Without it nothing more can be recorded in this store.")
