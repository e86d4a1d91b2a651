"""Every kind of file in a project, and how rows are erased from it. A test finds files that are not listed here."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

Treatment = Literal[
    "rows", "blob", "artifact", "answers", "text", "database", "record", "removed", "named", "no rows", "unknown"
]
"""rows: markers replace the rows.
blob: the same in a stored copy of a raw file.
artifact: see store/artifact_redaction.py.
answers: the teacher's answers are emptied.
text: the texts are removed.
database: the texts are removed from each cell.
record: it contains no text of a row, but a reason that a person wrote. It is signed or chained, and not changed. The
result names it if the reason repeats something of a row.
removed: the file is removed, because it can be made again.
named: the user's own file, which is not changed. The result names it if it contains a text.
no rows: it contains no text of a row.
unknown: nothing should be of this kind, or it is no regular file, such as a pipe. The result names the file."""

FILE_KINDS: tuple[tuple[str, Treatment], ...] = (
    ("data/raw/*", "rows"),
    ("data/excluded.yaml", "record"),  # salted hashes
    ("data/relabels.jsonl", "text"),  # ids of rows, labels
    ("data/store/artifacts/*", "artifact"),
    ("data/store/blobs/*.zst", "blob"),
    ("data/store/blobs/*.reference.json", "no rows"),  # a path and a hash
    ("data/store/blobs/*.redacted.json", "no rows"),  # hashes
    ("data/store/blobs/*.damaged", "removed"),
    ("data/store/blobs/.incoming.*", "removed"),
    ("data/store/work/*", "removed"),
    ("data/store/drafts/*", "removed"),
    ("data/store/cache/stat/*", "no rows"),  # names and hashes
    ("data/store/cache/*", "removed"),
    ("data/store/teachers/*/log.jsonl", "answers"),
    ("data/store/notifications.jsonl", "text"),
    ("data/store/champion/*.json", "record"),  # hash-chained: names, numbers, fingerprints
    ("data/store/exposures/rows/*.txt", "text"),  # ids of test rows
    ("data/store/exposures/*.json", "no rows"),  # hash-chained: names, numbers, fingerprints
    ("data/store/inbox/*.json", "record"),  # hash-chained: ids of calls, names
    ("data/store/ratings/rows/*.json", "text"),  # ids of test rows, hashes of answers, notes of raters
    ("data/store/ratings/*.json", "no rows"),  # hash-chained: aliases, names, verdicts
    ("data/store/validation_looks/*.json", "no rows"),  # hash-chained: fingerprints, numbers
    ("data/store/redactions/*.json", "record"),  # hash-chained: salted hashes, names
    ("data/store/current/*.json", "no rows"),  # fingerprints
    ("data/store/requests/*.json", "record"),  # hash-chained: names, numbers, fingerprints
    ("data/store/journal.jsonl", "record"),  # names and hashes
    ("data/store/journal.pending.json", "no rows"),  # what the next change writes: records, redacted manifests
    ("data/store/signing_key.pub", "no rows"),
    ("data/store/sources/*.json", "no rows"),  # URLs, revisions, hashes
    ("data/store/removed.jsonl", "no rows"),  # fingerprints
    ("data/store/views.sql", "no rows"),  # paths
    ("data/store/locks/*", "no rows"),
    ("data/store/teachers/*/lock", "no rows"),
    ("data/store/*", "unknown"),
    ("dagster_home/*.db", "database"),
    ("dagster_home/*.db-*", "no rows"),  # journals, which are empty after the database is compacted
    *((f"dagster_home/*{suffix}", "text") for suffix in (".out", ".err", ".log", ".txt")),
    ("dagster_home/*.complete", "no rows"),  # empty
    ("dagster_home/*.yaml", "no rows"),  # settings
    ("dagster_home/opening", "no rows"),
    ("dagster_home/ui", "no rows"),
    ("dagster_home/*", "unknown"),
    (".*/*", "no rows"),  # version control, environments
    ("*", "named"),
)
"""Pattern of the path in the project, first match first."""


def treatment_of(relative: str) -> Treatment:
    """Return how rows are erased from the file at a path in the project."""
    return next(treatment for pattern, treatment in FILE_KINDS if fnmatchcase(relative, pattern))


def files_of(root: Path, *treatments: Treatment) -> Iterator[tuple[Path, Treatment]]:
    """Yield the files of a project that are treated in one of these ways. Links are not followed."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder) / name for name in sorted(names) if not (Path(folder) / name).is_symlink()):
            treatment = treatment_of(path.relative_to(root).as_posix())
            if treatment not in ("no rows", "removed") and not path.is_file():
                treatment = "unknown"  # who opens a pipe waits for its writer
            if treatment in treatments:
                yield path, treatment
