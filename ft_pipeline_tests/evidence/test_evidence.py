"""`ft export --format evidence`: Python alone computes it again, and finds what was changed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from ft_pipeline.evaluation.comparison import leads
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evidence import verify_evidence
from ft_pipeline.evidence.verify_evidence import STATEMENT, Values, check
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.signing import PUBLIC_KEY_NAME
from ft_pipeline_tests.end_to_end.project import ft_here
from ft_pipeline_tests.fixtures.packing import FINISHED, unpack_signed


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = unpack_signed(FINISHED, tmp_path_factory.mktemp("finished"))
    folder = root / "evidence"
    name = sorted(path.stem for path in (root / "experiments").glob("*.yaml"))[0]
    (done,) = ft_here(root, ("export", name, str(folder), "--format", "evidence"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "evidence"))


def test_python_alone_finds_nothing_wrong_in_what_was_exported(folder: Path) -> None:
    command = [sys.executable, "-I", "-S", str(folder / "verify_evidence.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All that can be computed again agrees." in done.stdout and "on trust: The key in the folder" in done.stdout
    assert not any(key == "answer" for line in (folder / "answers.jsonl").open() for key in json.loads(line))
    claims = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["claims"]
    metric = json.loads((folder / "measure.json").read_text(encoding="utf-8"))
    assert metric["is_recomputed"]
    assert sum(claim["kind"] == "lead" and claim["measure"] == metric["metric"] for claim in claims) > 1


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(document) or document), encoding="utf-8")


def first_answer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answer = json.loads(lines[0])
    change(answer)
    (folder / "answers.jsonl").write_text("\n".join([json.dumps(answer), *lines[1:]]) + "\n", encoding="utf-8")


def lead_of(document: dict[str, Any]) -> dict[str, Any]:
    metric = document["primary_metric"]
    return next(
        claim
        for claim in document["claims"]
        if claim["kind"] == "lead" and claim["measure"] == metric and "value" in claim
    )


def a_look(folder: Path) -> Path:
    return min((folder / "ledgers" / "exposures").glob("0*.json"))


def release_all(document: dict[str, Any]) -> None:
    row = next(iter(document["matrix"]))
    cells = document["matrix"][row]
    document.update(move=True, name=row)
    cells[0]["outcome"] = "fails"


COMPUTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an answer": (
        lambda folder: first_answer(folder, lambda answer: answer.update(numerator=answer["numerator"] * 3 + 1)),
        "The answers of ",
    ),
    "the unit of an answer": (
        lambda folder: first_answer(folder, lambda answer: answer.update(unit="another")),
        "The lead of ",
    ),
    "an answer less": (
        lambda folder: (folder / "answers.jsonl").write_text(
            "".join((folder / "answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[1:]),
            encoding="utf-8",
        ),
        "The rows did not answer the same items",
    ),
    "a score": (
        lambda folder: edit(
            folder / "comparison.json",
            lambda document: document["rows"][0]["scores"][document["primary_metric"]].update(value=123.0),
        ),
        "not 123",
    ),
    "an interval": (
        lambda folder: edit(folder / "comparison.json", lambda document: lead_of(document).update(low=-77.0)),
        "low is -77.0",
    ),
    "a verdict": (
        lambda folder: edit(
            folder / "comparison.json",
            lambda document: lead_of(document).update(
                verdict="refuted" if lead_of(document).get("verdict") != "refuted" else "shown"
            ),
        ),
        "is said to be ",
    ),
    "the choice": (lambda folder: edit(folder / "decision.json", release_all), "is released, and lacks: "),
    "a look that was edited": (
        lambda folder: edit(a_look(folder), lambda document: document.update(by="nobody")),
        "was changed after ",
    ),
    "a look less": (lambda folder: a_look(folder).unlink(), "a record was dropped"),
}
STATED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a setting": (
        lambda folder: (folder / "settings" / "project.yaml").open("a").write("promotion: {}\n"),
        "settings/project.yaml was changed",
    ),
    "a file more": (lambda folder: (folder / "more.json").write_text("{}"), "more.json is in no statement"),
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
def test_a_change_is_found_by_what_is_computed_again_even_if_all_hashes_were_made_again(
    folder: Path, what: str
) -> None:
    change, said = COMPUTED[what]
    change(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    digests = [
        {"name": name, "digest": {"sha256": sha256_of_file(folder / name)}} for name in names if name != STATEMENT
    ]
    (folder / STATEMENT).write_text(json.dumps({"statement": {"subject": digests}}), encoding="utf-8")
    faults, trusted = check(folder)
    assert any(said in fault for fault in faults), faults
    assert not any("was changed." in fault for fault in faults)
    assert trusted[0].startswith("The statement is not signed")


@pytest.mark.parametrize("what", STATED)
def test_what_cannot_be_computed_is_named(folder: Path, what: str) -> None:
    change, said = STATED[what]
    change(folder)
    faults, _ = check(folder)
    assert any(said in fault for fault in faults)


def test_another_key_and_another_statement_are_found(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "given.pub"
    shutil.copyfile(folder / PUBLIC_KEY_NAME, key)
    assert check(folder, key)[0] == []
    other = unpack_signed(FINISHED, tmp_path / "other") / "data" / "store" / PUBLIC_KEY_NAME
    if other.read_bytes() != key.read_bytes():
        assert any("is not signed with the key" in fault for fault in check(folder, other)[0])
    edit(
        folder / STATEMENT,
        lambda document: document["signatures"][0].update(sig=document["signatures"][0]["sig"][::-1]),
    )
    assert any("is not signed with the key" in fault for fault in check(folder, key)[0])


def test_the_quantile_and_the_interval_are_those_of_the_package() -> None:
    for freedom in (1, 2, 5, 30, 431):
        assert verify_evidence.quantile(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=1e-9)
    draw = np.random.default_rng(3)
    units = [str(number) for number in draw.integers(0, 40, 120)]
    for is_rate, highest, lower in ((True, 1.0, False), (False, 1.0, False), (False, None, True)):
        columns = draw.integers(0, 2, (120, 2)).astype(float) if is_rate else draw.exponential(0.2, (120, 2)).clip(0, 1)
        estimates = leads.Conversations(units).means(columns, is_rate=is_rate, highest=highest)
        metric = Metric("score", lower, "", "")
        by_model = {name: {"score": each} for name, each in zip("ab", estimates, strict=True)}
        expected = leads.bounds(leads.values_over("b", "a", "score", metric, by_model), highest=highest)
        ours, theirs = (
            Values(
                [
                    {"unit": unit, "numerator": value, "denominator": 1.0}
                    for unit, value in zip(units, column, strict=True)
                ],
                sorted(set(units)),
                is_rate,
            )
            for column in columns.T.tolist()
        )
        found = verify_evidence.bounds(
            verify_evidence.lead_values(ours, theirs, -1.0 if lower else 1.0, highest), highest
        )
        assert found == pytest.approx(expected, rel=1e-9)
