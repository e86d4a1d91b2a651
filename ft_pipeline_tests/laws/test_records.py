"""decode(encode(x)) == x for each record that a later process or a later version reads."""

import ast
import importlib
import json
import os
import tempfile
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import TypeAdapter

import ft_pipeline
from ft_pipeline.copies.store_files import REPLACED
from ft_pipeline.decide import exposure_ledger, released
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.ruling import Ruling
from ft_pipeline.erasure.file_kinds import treatment_of
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.prompt_search import looks as validation_looks
from ft_pipeline.evaluation.prompt_search.tries import Try
from ft_pipeline.events import Progress, StepEvent
from ft_pipeline.execution.workers import worker
from ft_pipeline.inbox import decisions as inbox
from ft_pipeline.job import Rank
from ft_pipeline.ratings import rating_ledger
from ft_pipeline.release import champion, requests
from ft_pipeline.search.trials import Trial
from ft_pipeline.sources.records import SourceRecord, SourceRecords
from ft_pipeline.sources.snapshot import Snapshot, read_listing, write_listing
from ft_pipeline.store import artifact_redaction, journal, journal_head
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.checked_json import Digest
from ft_pipeline.store.journal_lines import STATE, matches, read_journal
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.manifest import FileEntry, read_manifest
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.accounts import FileAccount, RowWarning
from ft_pipeline.tables.dedup.keys import KEPT, Keys, read_keys, write_keys
from ft_pipeline.tables.excluded_rows import Excluded
from ft_pipeline.tables.file_result import FileResult, SourceFile, load, save
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline_tests.laws.values import JSON, TEXTS, fields_of, is_record, plain, records_of, values_of

PACKAGE = Path(ft_pipeline.__file__).parent
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
few = settings(deadline=None, max_examples=12)


# Every record of the package, found in its source: no record is added without a strategy.


@dataclass
class Survey:
    """What is in the source of the package. It is parsed once: that takes seconds."""

    classes: set[str] = field(default_factory=set)
    with_from_json: set[str] = field(default_factory=set)
    """Classes that have a from_json."""
    made_of_a_document: set[str] = field(default_factory=set)
    """Names that are called with the keys of a document: `Pointer(**read(path))`."""
    ledgers: set[str] = field(default_factory=set)
    """The names of the folders of the ledgers."""

    def look_at(self, owner: str, node: ast.AST) -> None:
        """Note what a node and those below it are. owner: the class that it stands in."""
        if isinstance(node, ast.ClassDef):
            owner = node.name
            self.classes.add(owner)
            if any(isinstance(entry, ast.FunctionDef) and entry.name == "from_json" for entry in node.body):
                self.with_from_json.add(owner)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if not node.args and [word.arg for word in node.keywords] == [None]:
                self.made_of_a_document.add(owner if name == "cls" else name)
            if name == "Ledger":
                self.ledgers.add(node.args[0].right.value)  # type: ignore[attr-defined]
        for child in ast.iter_child_nodes(node):
            self.look_at(owner, child)


@cache
def survey() -> Survey:
    """Return what is in the modules of the package."""
    result = Survey()
    for path in PACKAGE.rglob("*.py"):
        result.look_at("", ast.parse(path.read_text(encoding="utf-8")))
    result.made_of_a_document &= result.classes
    return result


DOCUMENTS = {
    "Comparison": "ft_pipeline.decide.comparison",
    "WorseAnswers": "ft_pipeline.evaluation.error_analysis.worse_answers",
    "Result": "ft_pipeline.ratings.results",
}
"""Classes whose records are in documents that pydantic reads, with their modules."""


@cache
def json_records() -> list[type[Any]]:
    """Return every record of the package that a document has, found in the types of its fields; but for claims, whose
    facts are those of their kind, and the comparison itself."""
    documents = [getattr(importlib.import_module(module), name) for name, module in DOCUMENTS.items()]
    waiting, found = [*documents], set()
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if is_record(kind) and kind not in found:
            found.add(kind)
            waiting += typing.get_type_hints(kind).values()
    return sorted(found - {Claim, Comparison}, key=lambda record: record.__name__)


NOT_READ_BACK = {
    "ComparisonTexts": "columns of Arrow, filtered",
    "Found": "findings, joined in memory",
    "KeptFacts": "of a claim, which pydantic reads with its comparison",
    "Rail": "of documents of version 1, which nothing writes any more",
}
"""Classes that are called with keys, but not with those of a document."""


# Laws of the records in documents.


@few
@given(st.data())
@pytest.mark.parametrize("record", json_records(), ids=lambda record: record.__name__)
def test_a_record_of_json_is_read_as_it_was_written(record: type[Any], data: st.DataObject) -> None:
    value = data.draw(records_of(record))
    text = json.dumps(fields_of(value), ensure_ascii=False)
    again = TypeAdapter(record).validate_python(json.loads(text))
    assert plain(again) == plain(value)
    assert json.dumps(fields_of(again), ensure_ascii=False) == text


def in_folder(encode_and_decode: Callable[[Any, Path], Any]) -> Callable[[Any], Any]:
    """Return the function with an empty folder."""

    def run(value: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return encode_and_decode(value, Path(folder))

    return run


def through_json(value: Any) -> Any:
    return type(value).from_json(json.loads(json.dumps(value.to_json())))


def through_pointers(pointer: Pointer, folder: Path) -> Pointer:
    artifact: Any = SimpleNamespace(**asdict(pointer))
    pointers = AssetPointers(folder)
    assert pointers.write(pointer.asset, pointer.partition, artifact) == pointers.all()[0]
    found = pointers.read(pointer.asset, pointer.partition)
    assert found is not None
    return replace(found, when=pointer.when)


def through_source_records(record: SourceRecord, folder: Path) -> SourceRecord | None:
    source: Any = SimpleNamespace(key="abc")
    SourceRecords(folder).write(source, record)
    return SourceRecords(folder).read(source)


def through_suite(suite: SuiteTexts, folder: Path) -> SuiteTexts:
    suite.write(folder)
    return SuiteTexts.read(folder)


def through_listing(snapshot: Snapshot, folder: Path) -> Snapshot:
    write_listing(snapshot, folder)
    assert Snapshot.from_json(snapshot.spec("text").to_json()["config"]) == snapshot
    return read_listing(folder)


def through_file_result(warning: RowWarning, folder: Path) -> RowWarning:
    source = SourceFile(warning.file or "", folder / "a", "")
    account = FileAccount(file=source.name, sha256="")
    result = FileResult(source, account, PLAIN, folder, Keys.empty(0).exact, Keys.empty(0), warnings=[warning])
    save(result, folder)
    return load(source, account, PLAIN, folder).warnings[0]


def through_environment(rank: Rank) -> Rank:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(worker.RANK, json.dumps(asdict(rank), default=os.fspath))
        return worker.own_rank()


def as_keywords(value: Any) -> Any:
    return type(value)(**json.loads(json.dumps(asdict(value))))


def through_model(value: Any) -> Any:
    return type(value).model_validate(json.loads(json.dumps(value.model_dump())))


HASHES = st.integers(0, 2**64 - 1)


def keys_of_rows(rows: list[tuple[int, ...]], windows: int) -> Keys:
    """Return keys with any hashes. windows: the number from which those of the windows are counted."""
    columns = np.array(rows, dtype=np.uint64).reshape(-1, 6)
    numbers = np.arange(len(rows) * KEPT, dtype=np.uint32).reshape(-1, KEPT) + np.uint32(windows)
    return Keys(*columns[:, :4].T, columns[:, 4:], numbers, columns[:, 0] % 2 == 1)


RECORDS: dict[type, tuple[SearchStrategy[Any], Callable[[Any], Any]]] = {
    Excluded: (
        st.builds(Excluded, st.just("00ff"), st.frozensets(TEXTS, min_size=1, max_size=3)) | st.just(Excluded()),
        through_json,
    ),
    Trial: (records_of(Trial), through_json),
    Try: (records_of(Try), through_json),
    Snapshot: (records_of(Snapshot), in_folder(through_listing)),
    SuiteTexts: (records_of(SuiteTexts), in_folder(through_suite)),
    SourceRecord: (records_of(SourceRecord), in_folder(through_source_records)),
    Pointer: (
        records_of(Pointer, asset=NAMES, partition=st.none() | NAMES),
        in_folder(through_pointers),
    ),
    FileEntry: (records_of(FileEntry, rows_sha256=st.none() | NAMES), lambda entry: FileEntry(**entry.to_json())),
    RowWarning: (records_of(RowWarning, file=NAMES), in_folder(through_file_result)),
    DataAtHand: (records_of(DataAtHand), as_keywords),
    Rank: (records_of(Rank, meeting=values_of(Path)), through_environment),
    StepEvent: (records_of(StepEvent), as_keywords),
    Progress: (records_of(Progress), as_keywords),
    Ruling: (records_of(Ruling), through_model),
    Metric: (records_of(Metric), as_keywords),
}
"""The other records: a strategy, and what writes and reads one."""


@few
@given(st.data())
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_is_read_as_it_was_written(record: type, data: st.DataObject) -> None:
    strategy, write_and_read = RECORDS[record]
    value = data.draw(strategy)
    assert write_and_read(value) == value


@few
@given(st.lists(st.tuples(*[HASHES] * 6), max_size=5), st.integers(0, 2**31), st.data())
def test_the_keys_of_rows_are_read_as_they_were_written(rows: list, windows: int, data: st.DataObject) -> None:
    keys = keys_of_rows(rows, windows)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.parquet"
        write_keys(keys, kept, path)
        again, expected = read_keys([path, path]), keys.take(np.tile(np.flatnonzero(kept), 2))
    for name in vars(expected):
        assert getattr(again, name).tolist() == getattr(expected, name).tolist(), name


# Laws of the ledgers: what was appended is read back, in order, and no record is a fault.

EVIDENCE = st.fixed_dictionaries(
    {},
    optional={
        "comparison": st.none() | TEXTS,
        "gates": st.dictionaries(TEXTS, st.booleans(), max_size=2),
        "exposure": st.integers(0, 5),
        "decided_on": st.none() | TEXTS,
        "score": JSON,
    },
)
PROMOTIONS = records_of(released.Promotion)
CHAMPIONS = records_of(released.ChampionRecord, sequence=st.just(0), evidence=EVIDENCE, previous_sha256=st.none())
REQUESTS = st.builds(
    lambda promotion, standing: requests.MoveRequest(
        sequence=0, promotion=promotion, standing=standing, time="2026-01-01", by="ann"
    ),
    PROMOTIONS,
    st.none() | st.integers(1, 9),
)
REDACTIONS = records_of(
    artifact_redaction.Redaction,
    number=st.just(0),
    previous_sha256=st.none(),
    artifacts=st.lists(st.builds(asdict, records_of(artifact_redaction._Artifact)), max_size=2),
    models=st.lists(st.builds(asdict, records_of(artifact_redaction._Model)), max_size=2),
)
ENTRIES = st.tuples(
    st.lists(records_of(exposure_ledger.Look), min_size=1, max_size=2),
    st.lists(NAMES, max_size=4, unique=True),
    st.dictionaries(TEXTS, JSON, max_size=2),
    TEXTS,
)
CALLS = st.dictionaries(TEXTS, st.tuples(values_of(int), values_of(int)), max_size=2)
DECISIONS = st.tuples(st.sampled_from(["accepted", "rejected"]), CALLS, TEXTS, st.lists(TEXTS, max_size=2))
Written = list[dict[str, Any]]


def write_champions(store: Path, records: list[released.ChampionRecord]) -> tuple[list, list]:
    for number, record in enumerate(records, 1):
        assert champion.ledger(store).append({**record.model_dump(), "sequence": number})
    read = champion.history(store)
    return [record.model_copy(update={"sequence": 0, "previous_sha256": None}) for record in read], records


def write_requests(store: Path, records: list[requests.MoveRequest]) -> tuple[list, list]:
    for number, record in enumerate(records, 1):
        assert requests.ledger(store).append({**record.model_dump(), "sequence": number})
    read = requests.ledger(store).read()
    return [record.promotion for record in read], [record.promotion for record in records]


def write_validation_looks(store: Path, records: list[validation_looks.ValidationLook]) -> tuple[list, list]:
    written = [replace(record, sequence=number) for number, record in enumerate(records, 1)]
    for record in written:
        assert validation_looks.ledger(store).append(asdict(record))
    read = validation_looks.ledger(store).read()
    return [replace(record, previous_sha256=None) for record in read], [
        replace(w, previous_sha256=None) for w in written
    ]


def write_redactions(store: Path, records: list[artifact_redaction.Redaction]) -> tuple[list, list]:
    for number, record in enumerate(records, 1):
        artifact_redaction.append_redaction(store, replace(record, number=number))
    read = artifact_redaction.read_redactions(store)
    return [plain(replace(record, number=0, previous_sha256=None)) for record in read], list(map(plain, records))


def write_ratings(store: Path, records: list[rating_ledger.Rating]) -> tuple[list, list]:
    for rating in records:
        rating_ledger.append_rating(store, rating)
        assert rating_ledger.seed_of(store, ("a", "b")) == rating_ledger.seed_of(store, ("b", "a"))
    return rating_ledger.read_ratings(store), records


def write_entries(store: Path, records: list[tuple]) -> tuple[list, list]:
    expected = []
    for number, (looks, ids, read, compared) in enumerate(records, 1):
        own = [replace(look, identity=f"{number}:{place}") for place, look in enumerate(looks)]
        exposure_ledger.write_looks(store, own, ids, read, compared)
        expected.append((own, set(ids), read, compared))
    entries = exposure_ledger.read_entries(store)
    return [(entry.looks, entry.ids, entry.settings, entry.compared) for entry in entries], expected


def write_decisions(store: Path, records: list[tuple]) -> tuple[list, list]:
    expected: dict[str, tuple] = {}
    for outcome, calls, reason, files in records:
        inbox.record(store, outcome, calls, reason, files)
        for name, version in calls.items():
            was_accepted = outcome == "accepted" or (name in expected and expected[name][2])
            expected[name] = (outcome, version, was_accepted)
    read = inbox.read_decisions(store)
    found = {name: (entry.outcome, entry.version, entry.was_accepted) for name, entry in read.items()}
    return list(found.items()), list(expected.items())


LEDGERS: dict[str, tuple[SearchStrategy[Any], Callable[[Path, list], tuple[list, list]]]] = {
    "champion": (CHAMPIONS, write_champions),
    "requests": (REQUESTS, write_requests),
    "redactions": (REDACTIONS, write_redactions),
    "ratings": (records_of(rating_ledger.Rating), write_ratings),
    "exposures": (ENTRIES, write_entries),
    "inbox": (DECISIONS, write_decisions),
    "validation_looks": (records_of(validation_looks.ValidationLook), write_validation_looks),
}
"""By folder: a strategy of a record, and what writes some and returns what is read and what was written."""


@few
@given(st.data())
@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_is_read_as_it_was_written(name: str, data: st.DataObject) -> None:
    strategy, write_and_read = LEDGERS[name]
    records = data.draw(st.lists(strategy, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        read, written = write_and_read(Path(folder), records)
        assert read == written
        key = "number" if name == "redactions" else "sequence"
        assert list(Ledger(Path(folder) / name, key).faults()) == []


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_is_signed_copied_and_known_to_an_erasure(name: str) -> None:
    """Without the first, each line that the journal signed for it would be a file that was removed."""
    assert matches(f"{name}/000001.json", STATE) and matches(f"{name}/000001.json", REPLACED)
    assert treatment_of(f"data/store/{name}/000001.json") in ("record", "no rows")


# Laws of an artifact: its manifest, and the journal that signs it.

CONFIGS = st.dictionaries(TEXTS, JSON, max_size=3)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """A store with a key."""
    store = ArtifactStore(tmp_path_factory.mktemp("signed") / "store")
    store.root.mkdir()
    assert journal.sign_new_store(store.root)
    return store


@settings(few, max_examples=8)
@given(st.lists(st.tuples(NAMES, CONFIGS, st.dictionaries(TEXTS, JSON, max_size=2)), min_size=1, max_size=3))
def test_a_manifest_is_read_as_it_was_written(signed: ArtifactStore, made: list[tuple[str, dict, dict]]) -> None:
    inputs: dict[str, Any] = {}
    for number, (kind, config, summary) in enumerate(made):
        spec = Spec(kind, dict(inputs), config, seed=number)
        draft = signed.begin(spec)
        (draft.out / "content.json").write_text(json.dumps([number, config]))
        artifact = signed.commit(draft, summary)
        manifest = read_manifest(artifact.path)
        assert manifest["spec"] == spec.to_json()
        found = ArtifactStore(signed.root).find(spec)
        assert found is not None and found.fingerprint == artifact.fingerprint
        assert found.summary == artifact.summary and found.inputs == inputs
        inputs[f"input{number}"] = artifact.reference
    content = read_journal(signed.root)
    last, head = content.entries[-1], journal_head.remembered(signed.root)
    assert not content.faults and head == journal_head.Head(content.keys[-1].key_id, last.number, last.sha256)


DETAILS = st.dictionaries(NAMES.map("own_{}".format), JSON, max_size=2)


@settings(few, max_examples=8)
@given(st.lists(st.tuples(NAMES, st.dictionaries(TEXTS, values_of(Digest), max_size=2), DETAILS), max_size=3))
def test_a_line_of_the_journal_is_read_as_it_was_written(signed: ArtifactStore, changes: list[tuple]) -> None:
    begin = len(read_journal(signed.root).entries)
    for change, files, details in changes:
        with journal.changing(signed.root) as sign:
            sign(change, files, details)
    entries = read_journal(signed.root).entries[begin:]
    assert [(entry.change, entry.files, entry.details) for entry in entries] == changes


# No record without a law.

OF_OTHERS = {
    *("Candidate", "Promotion", "MoveRequest", "ChampionRecord", "Redaction", "Rating", "Look"),  # of their ledgers
    "Relabel",  # worth/test_relabel.py
    *("SnapshotFile", "Keys", "Measured"),
}
"""Records that the laws of others read and write."""


def test_every_record_has_a_law() -> None:
    laws = {record.__name__ for record in (*RECORDS, *json_records())} | OF_OTHERS
    lacking = (survey().with_from_json | survey().made_of_a_document) - laws - set(NOT_READ_BACK)
    assert not lacking, f"Add a strategy to RECORDS in {Path(__file__).name}: {', '.join(sorted(lacking))}."
    lacking = survey().ledgers - set(LEDGERS)
    assert not lacking, f"Add a strategy to LEDGERS in {Path(__file__).name}: {', '.join(sorted(lacking))}."
    stale = set(NOT_READ_BACK) - survey().made_of_a_document
    assert not stale, f"Remove from NOT_READ_BACK in {Path(__file__).name}: {', '.join(sorted(stale))}."
