"""`ft keys` and `ft anchor`: the key that signs the changes of the store, and a copy of the signed lines outside it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ft_pipeline.cli.common import JsonOption, ProjectOption, checked_reason, open_project, print_result, stdout
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError

app = typer.Typer(help="The key that signs the changes of the store.", invoke_without_command=True)

ReasonOption = Annotated[str, typer.Option("--reason", callback=checked_reason, help="Reason, kept in the journal.")]


@app.callback()
def keys(context: typer.Context, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show the key of the store, and how many changes are signed.

    Example: ft keys
    """
    if context.invoked_subcommand is None:
        print_result(_describe(open_project(project).store), as_json, _show)


@app.command()
def new(reason: ReasonOption, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Create a key for a store that has none, or a new one. A store that was not signed is signed as it is now.

    Example: ft keys new --reason "the old key was on a stolen laptop"
    """
    from ft_pipeline.store.journal import replace_key

    store = open_project(project).store
    replace_key(store, _require(reason))
    print_result(_describe(store), as_json, _show)


@app.command()
def accept(reason: ReasonOption, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Go on with a store whose journal ends before what this machine signed, such as a restored backup.

    Example: ft keys accept --reason "restored from the backup of Monday"
    """
    from ft_pipeline.store.journal import accept_state

    store = open_project(project).store
    accept_state(store, _require(reason))
    print_result(_describe(store), as_json, _show)


def anchor(
    target: Annotated[str, typer.Argument(help="File on another disk, or git+URL of a repository.")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the signed lines of the journal to a place outside the project, so that `ft audit --verify --anchor` finds
    what was dropped or rewritten since, even by somebody who has the key.

    Example: ft anchor git+ssh://git.example.com/anchors.git
    """
    from ft_pipeline.audit.anchor import write_anchor

    result = write_anchor(open_project(project).store, target)

    def show(document: dict[str, Any]) -> None:
        say(
            stdout,
            f"Anchored {document['new']} new lines in {plain(target)}. It has {document['lines']}; the last is "
            f"{document['head']}.",
        )

    print_result(vars(result), as_json, show)


def _require(reason: str) -> str:
    if not reason.strip():
        raise UserError("The reason is empty. State it for the journal: --reason TEXT")
    return reason.strip()


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


def _show(document: dict[str, Any]) -> None:
    if document["key"] is None:
        say(stdout, "This store is not signed. Create a key: ft keys new --reason TEXT")
        return
    say(stdout, f"Key {document['key']}, with {document['lines']} signed changes")
    say(stdout, f"public:  {plain(document['public_key'])}")
    private = document["private_key"] or document["problem"]
    say(stdout, f"private: {plain(private)}")
    for fault in document["faults"]:
        say(stdout, f"[red]✗ {plain(fault)}[/]")
    if document["private_key"]:
        say(stdout, "Back up the private key. Without it nothing more can be recorded in this store.")
