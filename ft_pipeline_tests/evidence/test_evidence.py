"""`ft export --format evidence`: Python alone computes it again, and finds what was changed."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import stdtrit

from ft_pipeline.decide.build import RULES
from ft_pipeline.evaluation.comparison import leads
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evidence import verify_evidence
from ft_pipeline.evidence.verify_evidence import PREDICATE, STATEMENT, STATEMENT_TYPE, Values, check
from ft_pipeline.store import signing
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.signing import PUBLIC_KEY_NAME, create_key
from ft_pipeline_tests.end_to_end.project import ft_here
from ft_pipeline_tests.fixtures.packing import FINISHED, unpack_signed

TEXT_CHARACTERS = 20
"""A shorter text may be a word that settings have, too."""
Change = tuple[Callable[[Path], object], str]


def made(root: Path, asset: str) -> Artifact:
    found = current_artifact(ArtifactStore(root / "data" / "store"), asset)
    assert found is not None
    return found


def examined(root: Path) -> str:
    """The first row that the decision examined."""
    return str(next(iter(made(root, "decision").document("decision.json")["matrix"])))


def export(root: Path, folder: Path, *options: str) -> Path:
    (done,) = ft_here(root, ("export", examined(root), str(folder), "--format", "evidence", *options))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = unpack_signed(FINISHED, tmp_path_factory.mktemp("finished"))
    return export(root, root / "evidence")


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "evidence"))


def test_python_alone_finds_nothing_wrong_in_what_was_exported(folder: Path) -> None:
    command = [sys.executable, "-I", "-S", str(folder / "verify_evidence.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All that can be computed again agrees." in done.stdout and "on trust: The key in the folder" in done.stdout
    assert "Scores and leads" not in done.stdout
    document = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert verify_evidence.RULES == RULES == document["rules"]
    assert sum(
        claim["kind"] == "lead" and claim["measure"] == document["primary_metric"] for claim in document["claims"]
    )


def test_it_has_no_text_of_a_row_unless_texts_are_asked_for(exported: Path, tmp_path: Path) -> None:
    root = exported.parent
    samples = pq.read_table(made(root, "comparison").path / "samples.parquet").to_pylist()
    texts = {sample[name] for sample in samples for name in ("prompt", "reference", "answer")}
    long_ones = {text for text in texts if len(text) > TEXT_CHARACTERS}
    assert long_ones
    written = "".join(path.read_text(encoding="utf-8") for path in exported.rglob("*.json*"))
    assert not [text for text in long_ones if json.dumps(text, ensure_ascii=False)[1:-1] in written]
    with_texts = export(root, tmp_path / "texts", "--with-texts")
    line = json.loads((with_texts / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {"answer", "reference"} <= line.keys() and check(with_texts)[0] == []


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_comparison(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "comparison.json", change)


def first_answer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "answers.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        answer = json.loads(lines[0])
        change(answer)
        path.write_text("\n".join([json.dumps(answer), *lines[1:]]) + "\n", encoding="utf-8")

    return changed


def drop_answer(folder: Path) -> None:
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "answers.jsonl").write_text("".join(lines[1:]), encoding="utf-8")


def lead_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return a lead on the metric that decides."""
    metric = document["primary_metric"]
    of_it = [claim for claim in document["claims"] if claim["kind"] == "lead" and claim["measure"] == metric]
    return next(claim for claim in of_it if "value" in claim)


def another_verdict(document: dict[str, Any]) -> None:
    lead = lead_of(document)
    lead["verdict"] = "shown" if lead.get("verdict") == "refuted" else "refuted"


def release_what_lacks(document: dict[str, Any]) -> None:
    row = next(iter(document["matrix"]))
    document["decision"].update(move=True, name=row)
    document["matrix"][row][0]["outcome"] = "fails"


def pass_over(document: dict[str, Any]) -> None:
    document["decision"].update(move=False, name=None, failed={})
    for cell in next(iter(document["matrix"].values())):
        cell["outcome"] = "holds"


def looks(folder: Path) -> list[Path]:
    return sorted((folder / "ledgers" / "exposures").glob("0*.json"))


def score_of_first(document: dict[str, Any]) -> None:
    document["rows"][0]["scores"][document["primary_metric"]]["value"] = 123.0


COMPUTED: dict[str, Change] = {
    "an answer": (first_answer(lambda answer: answer.update(numerator=answer["numerator"] * 3 + 1)), "The answers of "),
    "a unit": (first_answer(lambda answer: answer.update(unit="another")), " units, more than the comparison has"),
    "an answer less": (drop_answer, "The rows did not answer the same items"),
    "a score": (edit_comparison(score_of_first), "not 123"),
    "an interval": (edit_comparison(lambda document: lead_of(document).update(low=-77.0)), "low is -77.0"),
    "a verdict": (edit_comparison(another_verdict), "is said to be "),
    "a lead less": (edit_comparison(lambda document: document["claims"].remove(lead_of(document))), " is missing."),
    "a release": (lambda folder: edit(folder / "decision.json", release_what_lacks), "is released, and lacks: "),
    "no release": (lambda folder: edit(folder / "decision.json", pass_over), "lacks nothing, and is not released"),
    "a look": (lambda folder: edit(looks(folder)[0], lambda look: look.update(by="nobody")), "was changed after "),
    "the first look": (lambda folder: looks(folder)[0].unlink(), "a record was dropped"),
    "all looks": (lambda folder: shutil.rmtree(folder / "ledgers" / "exposures"), "a record was dropped"),
}
STATED: dict[str, Change] = {
    "a setting": (
        lambda folder: (folder / "settings" / "project.yaml").write_text("name: other\n", encoding="utf-8"),
        "settings/project.yaml was changed",
    ),
    "a file more": (lambda folder: (folder / "more.json").write_text("{}"), "more.json is in no statement"),
    "a module": (
        lambda folder: shutil.copytree(folder / "settings", folder / "__pycache__"),
        "__pycache__/project.yaml is in no statement",
    ),
    "a file less": (lambda folder: (folder / "decision.json").unlink(), "decision.json is missing"),
    "the program": (
        lambda folder: (folder / "verify_evidence.py").write_text("print('fine')"),
        "verify_evidence.py was changed",
    ),
}


@pytest.mark.parametrize("what", [*COMPUTED, *STATED])
def test_a_change_is_found_by_its_hash(folder: Path, what: str) -> None:
    change, _ = (COMPUTED | STATED)[what]
    change(folder)
    faults, _ = check(folder)
    assert any(said in fault for fault in faults for said in ("was changed", "is missing", "is in no statement"))


@pytest.mark.parametrize("what", COMPUTED)
def test_a_change_is_found_even_if_all_hashes_were_made_again(folder: Path, what: str) -> None:
    change, said = COMPUTED[what]
    change(folder)
    (folder / PUBLIC_KEY_NAME).unlink()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    stated = {name: sha256_of_file(folder / name) for name in names if name != STATEMENT}
    subject = [{"name": name, "digest": {"sha256": digest}} for name, digest in stated.items()]
    statement = {"_type": STATEMENT_TYPE, "predicateType": PREDICATE, "subject": subject}
    (folder / STATEMENT).write_text(json.dumps({"statement": statement}), encoding="utf-8")
    faults, trusted = check(folder)
    assert any(said in fault for fault in faults), faults
    assert not any("was changed." in fault for fault in faults)
    assert trusted[0].startswith("The statement is not signed")


@pytest.mark.parametrize("what", STATED)
def test_what_cannot_be_computed_is_named(folder: Path, what: str) -> None:
    change, said = STATED[what]
    change(folder)
    faults, _ = check(folder)
    assert any(said in fault for fault in faults), faults


def test_another_key_a_broken_signature_and_no_signature_are_found(folder: Path, tmp_path: Path) -> None:
    key, other, statement = folder / PUBLIC_KEY_NAME, tmp_path / "other.pub", folder / STATEMENT
    assert check(folder, key)[0] == []
    other.write_bytes(create_key().public_pem)
    assert any("is not signed with the key" in fault for fault in check(folder, other)[0])
    envelope = json.loads(statement.read_text(encoding="utf-8"))
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[-1] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    statement.write_text(json.dumps(envelope), encoding="utf-8")
    assert any("is not signed with the key" in fault for fault in check(folder, key)[0])
    unsigned = {"statement": json.loads(base64.b64decode(envelope["payload"]))}
    statement.write_text(json.dumps(unsigned), encoding="utf-8")
    assert any("is not signed, although there is a key" in fault for fault in check(folder)[0])
    statement.write_text("{", encoding="utf-8")
    assert any("cannot be read as evidence" in fault for fault in check(folder, key)[0])


def test_what_the_decision_did_not_examine_has_no_evidence(exported: Path, tmp_path: Path) -> None:
    root = exported.parent
    edited = made(root, "decision").path / "decision.json"
    edited.chmod(0o600)
    edit(edited, lambda document: document["matrix"].clear())
    (done,) = ft_here(root, ("export", "champion", str(tmp_path / "none"), "--format", "evidence"))
    assert done.returncode and not (tmp_path / "none").exists()


def values_of(units: list[str], column: list[float]) -> Values:
    answers = [
        {"unit": unit, "numerator": value, "denominator": 1.0} for unit, value in zip(units, column, strict=True)
    ]
    return Values(answers, sorted(set(units)))


@pytest.mark.parametrize(
    ("is_rate", "highest", "lower"),
    [(True, 1.0, False), (False, 1.0, False), (False, 100.0, False), (False, None, True)],
)
def test_an_interval_is_that_of_the_package(is_rate: bool, highest: float | None, lower: bool) -> None:
    draw = np.random.default_rng(3)
    units = [str(number) for number in draw.integers(0, 40, 120)]
    columns = draw.integers(0, 2, (120, 2)).astype(float) if is_rate else draw.exponential(0.2, (120, 2)).clip(0, 1)
    estimates = leads.Conversations(units).means(columns, is_rate=is_rate, highest=highest)
    by_model = {name: {"score": each} for name, each in zip("ab", estimates, strict=True)}
    expected = leads.bounds(
        leads.values_over("b", "a", "score", Metric("score", lower, "", ""), by_model), highest=highest
    )
    ours, theirs = (values_of(units, column) for column in columns.T.tolist())
    values = verify_evidence.lead_values(ours, theirs, -1.0 if lower else 1.0, highest, is_rate=is_rate)
    assert verify_evidence.bounds(values, highest) == pytest.approx(expected, rel=1e-9)


def test_the_verifier_has_the_constants_of_the_package() -> None:
    units = {metric.unit: metric.highest for metric in METRICS.values() if metric.highest is not None}
    assert units.items() <= verify_evidence.HIGHEST.items()
    assert (STATEMENT_TYPE, verify_evidence.PAYLOAD_TYPE) == (signing.STATEMENT_TYPE, signing.PAYLOAD_TYPE)
    assert (verify_evidence.LEVEL, verify_evidence.KEY) == (leads.LEVEL, PUBLIC_KEY_NAME)


def test_the_quantile_is_that_of_students_t() -> None:
    for freedom in (1, 2, 5, 30, 431, 20_000):
        assert verify_evidence.quantile(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=1e-9)
