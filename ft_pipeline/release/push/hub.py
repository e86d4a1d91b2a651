"""Push to a private repository of the Hugging Face Hub, in one commit.

The token is HF_TOKEN, or the one that `hf auth login` stored. HF_ENDPOINT names another hub. The files of a repository
are exactly those of the export: files of an earlier push that are not in it are removed by the same commit.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.release.disclosure.folder import SUMS
from ft_pipeline.release.push.destination import Plan, ReportFile
from ft_pipeline.release.push.parcel import Parcel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPOSITORY = re.compile(r"^[\w.-]{1,96}(/[\w.-]{1,96})?$")
MAIN = "main"
_OWN_FILES = frozenset({".gitattributes", "README.md"})
"""Files that a hub puts into an empty repository."""


class HubRepository:
    """A repository for a model. The client library shows its own progress, so no file is reported."""

    def __init__(self, name: str, branch: str = MAIN) -> None:
        """name: `OWNER/REPOSITORY`, or the name of a repository of the token's owner. UserError if it is no name, or
        if nothing can be sent because the hub is offline or there is no token."""
        if not REPOSITORY.match(name):
            raise UserError(f"{name!r} is not a name of a repository. Write it as OWNER/REPOSITORY.")
        self._name, self._branch, self._token = name, branch, _require_token()

    def plan(self, parcel: Parcel) -> Plan:
        with _errors(self._name):
            api, repository = self._open()
            is_private, files = _state(api, repository, self._branch)
        if is_private is None:
            notes = [
                "A new repository is created. It is private: only its owner and those whom they admit can read it."
            ]
        else:
            _require_private(repository, is_private)
            notes = ["The repository exists and is private.", *_notes_on_files(repository, files, parcel)]
        return Plan(f"{api.endpoint}/{repository}{_branch_note(self._branch)}", tuple(notes))

    def send(self, parcel: Parcel, report: ReportFile) -> str:
        with _errors(self._name):
            api, repository = self._open()
            is_private, files = _state(api, repository, self._branch)
            if is_private is None:
                api.create_repo(repository, private=True, exist_ok=False)
                is_private, files = _state(api, repository, self._branch)
            _require_private(repository, bool(is_private))
            _notes_on_files(repository, files, parcel)
            if self._branch != MAIN:
                api.create_branch(repository, branch=self._branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=parcel.folder,
                revision=self._branch,
                allow_patterns=list(parcel.hashes),
                delete_patterns="*",
                commit_message="Add the model and its documents",
            )
            arrived = set(api.list_repo_files(repository, revision=self._branch))
        if missing := sorted(parcel.hashes.keys() - arrived):
            raise UserError(
                f"The hub did not take {missing[0]} into {repository}. Remove its .gitignore, and push again."
            )
        return str(commit.commit_url)

    def _open(self) -> "tuple[HfApi, str]":
        """Return the hub's client, and the repository's name with its owner."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=self._token)
        owner = api.whoami()["name"]
        return api, self._name if "/" in self._name else f"{owner}/{self._name}"


def _require_token() -> str:
    """Return the token. UserError if there is none, or if the hub is offline."""
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing is sent to the hub. Unset HF_HUB_OFFLINE and run again.")
    if not (token := get_token()):
        raise UserError("There is no token for the hub. Set HF_TOKEN in the environment, or run `hf auth login`.")
    return token


def _state(api: "HfApi", repository: str, branch: str) -> tuple[bool | None, set[str]]:
    """Return whether a repository is private (None: it does not exist, or the token may not see it), and its files."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        is_private = bool(api.repo_info(repository).private)
    except RepositoryNotFoundError:
        return None, set()
    try:
        return is_private, set(api.list_repo_files(repository, revision=branch))
    except RevisionNotFoundError:
        return is_private, set()


def _require_private(repository: str, is_private: bool) -> None:
    if not is_private:
        raise UserError(f"{repository} is public. Make it private on the hub, or choose another --name.")


def _notes_on_files(repository: str, files: set[str], parcel: Parcel) -> list[str]:
    """Return a note on files that are replaced. UserError if the repository has files that no push wrote."""
    if SUMS not in files and (others := sorted(files - _OWN_FILES - parcel.hashes.keys())):
        raise UserError(
            f"{repository} has files that `ft push` did not write, such as {others[0]}. Choose another --name."
        )
    removed = sorted(files - parcel.hashes.keys() - _OWN_FILES)
    return [f"Files of an earlier push that are removed: {', '.join(removed)}."] if removed else []


def _branch_note(branch: str) -> str:
    return "" if branch == MAIN else f" (branch {branch})"


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turn errors of the hub and of the network into one line. Addresses in it lose their query: it may be signed."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(f"{_answer(name, error.response.status_code, error)}") from None
    except (httpx2.HTTPError, OSError) as error:
        raise UserError(f"The hub cannot be reached ({_plain(error)}). Check the network and HF_ENDPOINT.") from None
    except (RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"The hub did not take the files ({_plain(cause)}). Push again to continue.") from None


def _answer(name: str, status: int, error: Exception) -> str:
    advice = {
        401: ("does not accept the token", "Set HF_TOKEN to a valid one"),
        403: (f"does not let this token write to {name}", "Use a token with write access, or another --name"),
        404: (f"has no {name}, or does not show it to this token", "Check --name and the token"),
        409: (f"has another repository or commit at {name}", "Push again, or choose another --name"),
        413: ("does not take a file of this size", "Check the limits of the account"),
        429: ("asks to wait", "Push again later"),
    }
    what, todo = advice.get(status, (f"answered {status} ({_plain(error)})", "Push again later"))
    return f"The hub {what}. {todo}."


def _plain(error: BaseException) -> str:
    return re.sub(r"\?\S+", "", first_line(error)).rstrip(". ")
