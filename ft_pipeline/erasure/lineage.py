"""What an erasure concerns: the row, its near copies in every raw file and snapshot, and what was made from them.

All raw files are read twice, and all stored copies of raw files once, row by row.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ft_pipeline.erasure.near_copies import ErasedContents, PhraseIndex, Words
from ft_pipeline.erasure.raw_copies import RawFile, all_files, raw_files, remote_files
from ft_pipeline.erasure.raw_files import RawRow, read_raw_rows
from ft_pipeline.erasure.reasons import telling_words
from ft_pipeline.evaluation.scoring.retrieval import split_into_passages
from ft_pipeline.evaluation.tuned_variants import variants_in
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.lineage.row_usage import SCORE_KINDS, derived_ids, descendants, rows_with
from ft_pipeline.project import Project
from ft_pipeline.sources.file_names import suffix_of
from ft_pipeline.store.artifact_redaction import drafts_folder
from ft_pipeline.store.text_redaction import MIN_CHARS, MIN_TRUNCATED_CHARS, Origin
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.formats.registry import FORMATS, format_of_file
from ft_pipeline.tables.reason_codes import Refused

ANSWERS = (
    ("teacher_answers", "answers.parquet", "id"),
    ("teacher_distributions", "rows.parquet", "id"),
    ("judgements", "replies.parquet", "group"),
    *((kind, "samples.parquet", "group") for kind in (*SCORE_KINDS, "comparison")),
)
"""(kind of artifact, file, column with the id of the answered row) of every table of models' answers, and of a judge's
replies about them."""
SETTINGS = ("project.yaml", "experiments/*.yaml", "data/general/*", "data/probes/*")
"""Files whose texts are part of settings and specs, and so stay."""


@dataclass(frozen=True)
class PlacedRow:
    """A row of a raw file."""

    file: RawFile
    row: RawRow

    @property
    def origin(self) -> str:
        return f"{self.file.data_format}/{self.file.name}:{self.row.number}"


Place = tuple[str, int | None]
"""(path in the project, number of a row); None for a file of settings."""


@dataclass
class Lineage:
    """The rows to erase, and what identifies them everywhere."""

    rows: list[PlacedRow] = field(default_factory=list)
    """Erased rows of the project's files; then rows that only stored copies contain."""
    ids: set[str] = field(default_factory=set)
    """Their ids, and those of the rows made from them."""
    texts: set[str] = field(default_factory=set)
    """All their texts, and the models' answers to them."""
    shared: set[str] = field(default_factory=set)
    """Those of `texts` that another row contains, too."""
    kept: set[str] = field(default_factory=set)
    """Texts of other rows with which one of `texts` begins."""
    telling: set[Words] = field(default_factory=set)
    """What identifies somebody (reasons.telling_words), and a reason and no other row contains."""
    also: dict[str, None] = field(default_factory=dict)
    """Rows that share a text and stay."""
    stays: dict[Words, dict[Place, None]] = field(default_factory=dict)
    """The words of each text that stays, because these other rows or settings contain it, too."""
    request_ids: set[str] = field(default_factory=set)
    """Ids of the replies that are answers of a teacher to one of the rows."""
    copies: dict[tuple[str, str], dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """(SHA-256, suffix) of each stored copy → row number → id of the rows to erase."""
    places: dict[tuple[str, str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    """(format, name, SHA-256) → numbers of the erased rows, now or earlier, of that file in a snapshot."""
    read: set[Path] = field(default_factory=set)
    """The raw files that were read row by row."""
    unread: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each stored copy that cannot be read row by row → its name."""
    mask: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What is masked in the tables, by format."""
    missing: dict[str, None] = field(default_factory=dict)
    """Descriptions of the stored copies that are damaged."""


def trace(
    project: Project, index: ArtifactIndex, chosen: Sequence[PlacedRow], in_reasons: Collection[Words] = ()
) -> Lineage:
    """Return the lineage of the chosen rows of a raw file.

    in_reasons: what identifies somebody (reasons.telling_words) in what people wrote about decisions.
    """
    lineage = Lineage(mask=project.settings.data.masked(FORMATS))
    fragments = _find_copies(project, index, chosen, lineage)
    feedback = _find_feedback(project, index, calls_of([*lineage.rows, *fragments]) - calls_of(chosen), lineage)
    candidates = [*lineage.rows, *fragments, *feedback]
    sizes = _passage_sizes(index)
    lineage.texts = _texts_of(candidates, sizes) | _answers(index, _ids_of(candidates), lineage)
    telling = telling_words(lineage.texts - calls_of(candidates)).keys() & set(in_reasons)
    shared = _find_shared(project, _ids_of(candidates), lineage, telling)
    lineage.telling = telling - shared
    for placed in fragments:
        if shared.issuperset(placed.row.content.turns):  # other rows say it too, so that it identifies nobody
            _note_shared(
                lineage, placed.origin, placed.row.content.turns, (placed.file.place(project), placed.row.number)
            )
        else:
            _add(lineage, placed)
    erased_calls = calls_of(lineage.rows)
    for placed in feedback:
        if not erased_calls.isdisjoint(placed.row.call_ids):
            _add(lineage, placed)
    ids = _ids_of(lineage.rows)
    texts = _texts_of(lineage.rows, sizes)
    answers = _answers(index, ids, lineage) - texts
    lineage.texts = texts | answers
    others = (row for path, column in _answer_tables(index) for row in rows_with(path, "answer", answers))
    # A model that repeats a text of a person does not make it the text of another one, but it may answer two alike.
    shared_answers = {row["answer"] for row in others if not ids.intersection((row.get("id"), row.get("group")))}
    lineage.shared = shared_answers | {text for text in lineage.texts if words_of(text) in shared}
    lineage.ids = ids | set(derived_ids(index, ids))
    lineage.rows = _first_of_each(lineage.rows)
    return lineage


def _ids_of(rows: Iterable[PlacedRow]) -> set[str]:
    return {placed.row.identity for placed in rows}


def calls_of(rows: Iterable[PlacedRow]) -> set[str]:
    """Return the ids of the calls that rows come from."""
    return {call for placed in rows for call in placed.row.call_ids}


def _texts_of(rows: Iterable[PlacedRow], sizes: Collection[int]) -> set[str]:
    """Return the texts of rows, and the passages of raw texts, which scored prompts contain without the rest.

    sizes: the largest numbers of words in a passage.
    """
    texts = [(placed.file.data_format, text) for placed in rows for text in placed.row.texts if text]
    passages = {
        passage
        for data_format, text in texts
        for size in (sizes if data_format == "text" else ())
        for passage in split_into_passages(text, size)
    }
    return passages.union(text for _, text in texts)


def _passage_sizes(index: ArtifactIndex) -> set[int]:
    """Return the largest numbers of words in a passage, over all scores with retrieved passages."""
    return {
        variant["passage_words"]
        for kind in ("prompt_baseline", "scores")
        for node in index.all(kind)
        for variant in variants_in(node.config).values()
        if variant.get("passages")
    }


def _add(lineage: Lineage, placed: PlacedRow) -> None:
    lineage.rows.append(placed)
    if (sha256 := placed.file.sha256) is not None:
        lineage.copies[sha256, suffix_of(placed.file.name)][placed.row.number] = placed.row.identity
        lineage.places[placed.file.data_format, placed.file.name, sha256].add(placed.row.number)


def _first_of_each(rows: Iterable[PlacedRow]) -> list[PlacedRow]:
    """Return all rows of the project's files, and of the others the first one with each format and id."""
    first: dict[object, PlacedRow] = {}
    for placed in rows:
        key = (placed.file.data_format, placed.row.identity)
        # A document of a trace file holds several rows.
        first.setdefault(f"{placed.origin} {placed.row.identity}" if placed.file.sha256 is None else key, placed)
    known = {(placed.file.data_format, placed.row.identity) for key, placed in first.items() if isinstance(key, str)}
    return [placed for key, placed in first.items() if key not in known]


def _find_copies(
    project: Project, index: ArtifactIndex, chosen: Sequence[PlacedRow], lineage: Lineage
) -> list[PlacedRow]:
    """Add the chosen rows and their copies to the lineage. Return the rows that are a part of one of them."""
    contents = ErasedContents(placed.row.content for placed in chosen)
    chosen_ids = {(placed.file.data_format, placed.row.identity) for placed in chosen}
    calls = calls_of(chosen)
    fragments = []
    for file in all_files(project, index, lineage.missing):
        for row in _rows_of(file, lineage, drafts_folder(index.root)):
            placed = PlacedRow(file, row)
            if row.is_marker:
                lineage.places[file.data_format, file.name, file.sha256 or ""].add(row.number)
            elif (
                (file.data_format, row.identity) in chosen_ids
                or not calls.isdisjoint(row.call_ids)
                or contents.has_copy(row.content)
                or (row.is_broken and contents.begins_like(row.content))
            ):
                _add(lineage, placed)
            elif contents.has_fragment(row.content):
                fragments.append(placed)
    return fragments


def _find_feedback(project: Project, index: ArtifactIndex, calls: Collection[str], lineage: Lineage) -> list[PlacedRow]:
    """Return the feedback on these calls, in every file. A line of feedback may be far before its call."""
    if not calls:
        return []
    return [
        PlacedRow(file, row)
        for file in all_files(project, index, lineage.missing)
        for row in _rows_of(file, lineage, drafts_folder(index.root))
        if row.is_feedback and not row.call_ids.isdisjoint(calls)
    ]


def _rows_of(file: RawFile, lineage: Lineage, work: Path) -> Iterator[RawRow]:
    """Yield the rows of a file until it is refused. Note whether it is. A compressed file is expanded into `work`."""
    try:
        mask = lineage.mask.get(format_of_file(file.data_format, file.name).name, ())
        yield from read_raw_rows(file.path, file.name, file.data_format, file.sidecar, work, mask)
        lineage.read.add(file.path)
    except Refused:
        if file.sha256 is not None:
            lineage.unread[file.sha256] = file.name


def _answers(index: ArtifactIndex, ids: set[str], lineage: Lineage) -> set[str]:
    """Return the models' answers to rows with these ids. Those of endpoint teachers are added to `request_ids`."""
    rows = [row for path, column in _answer_tables(index) for row in rows_with(path, column, ids)]
    lineage.request_ids = {row["request_id"] for row in rows if row.get("request_id")}
    return {row["answer"] for row in rows if row["answer"]}


def _answer_tables(index: ArtifactIndex) -> Iterator[tuple[Path, str]]:
    """Yield (file, column with the id of the answered row) of every table of answers."""
    for kind, name, column in ANSWERS:
        for node in index.all(kind):
            if node.path is not None and (node.path / name).is_file():
                yield node.path / name, column


def _find_shared(project: Project, ids: set[str], lineage: Lineage, telling: Collection[Words]) -> set[Words]:
    """Return the words of those texts, and those of `telling`, that rows with other ids contain, too.

    Rows that contain a turn of an erased row, or all of its turns if they are short, are added to `also`.
    """
    rows = [set(placed.row.content.turns) for placed in lineage.rows]
    said = {turn for turns in rows for turn in turns if len(" ".join(turn)) >= MIN_CHARS}
    phrases = PhraseIndex(chain(map(words_of, lineage.texts), telling))
    by_start = defaultdict(list)
    for text in lineage.texts:
        by_start[text[:MIN_TRUNCATED_CHARS]].append(text)
    shared: set[Words] = set()

    def compare(origin: str, texts: Collection[str], place: Place) -> None:
        found = phrases.found_in(words_of("\n".join(texts)))
        shared.update(found)
        whole = (turns for turns in rows if turns and turns <= found)
        if stays := (found & said).union(*whole):
            _note_shared(lineage, origin, stays, place)
        for text in texts:
            if any(longer.startswith(text) for longer in by_start.get(text[:MIN_TRUNCATED_CHARS], ())):
                lineage.kept.add(text)

    for file in chain(raw_files(project), remote_files(project)):
        name = file.place(project)
        for row in _rows_of(file, lineage, drafts_folder(project.store)):
            if not row.is_marker and row.identity not in ids:
                compare(PlacedRow(file, row).origin, row.texts, (name, row.number))
    for path in (path for pattern in SETTINGS for path in sorted(project.root.glob(pattern)) if path.is_file()):
        name = path.relative_to(project.root).as_posix()
        compare(name, [path.read_text(encoding="utf-8", errors="replace")], (name, None))
    return shared


def _note_shared(lineage: Lineage, origin: str, turns: Iterable[Words], place: Place) -> None:
    """Note that another row contains these turns of an erased row."""
    lineage.also[origin] = None
    for turn in turns:
        lineage.stays.setdefault(turn, {})[place] = None


def origins_by_artifact(index: ArtifactIndex, lineage: Lineage) -> dict[Path, set[Origin]]:
    """Return folder of an artifact → (table, file, row) of the erased rows in the snapshots that it was made from."""
    origins: dict[Path, set[Origin]] = defaultdict(set)
    for data_format in FORMATS:
        for node in index.all(f"raw_{data_format}"):
            own: set[Origin] = {
                (data_format, entry["name"], number)
                for entry in node.config.get("files", [])
                for number in lineage.places.get((data_format, entry["name"], entry.get("sha256", "")), ())
            }
            for made in descendants(index, node) if own else ():
                if made.path is not None:
                    origins[made.path] |= own
    return origins
