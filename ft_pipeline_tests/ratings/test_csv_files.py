"""Pairs in a spreadsheet, and back."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.ratings.csv_files import COLUMNS, ReadResult, read_verdicts, write_pairs
from ft_pipeline.ratings.pairs import Match, Pair
from ft_pipeline.ratings.rating_ledger import read_ratings
from ft_pipeline_tests.ratings.rated import HOSTILE, PROMPT, TUNED, RatedProject, kind_answer, question

Row = dict[str, str]


@pytest.fixture
def match(project: RatedProject) -> Match:
    return project.match()


@pytest.fixture
def file(match: Match, tmp_path: Path) -> Path:
    """Six pairs for the rater r1."""
    path = tmp_path / "pairs.csv"
    assert write_pairs(match, "r1", 6, path) == 6
    return path


def rows_in(path: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def save(path: Path, rows: list[Row], *, delimiter: str = ",", encoding: str = "utf-8", before: str = "") -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    # As Excel does with letters that a code page does not have: the hostile question may be among the pairs.
    path.write_bytes((before + text.getvalue()).encode(encoding, "replace"))


def rated(path: Path, **verdicts: str) -> list[Row]:
    """The rows of the file with the same verdict in each."""
    return [{**row, "verdict": "both", **verdicts} for row in rows_in(path)]


def test_the_file_names_no_model_and_has_no_formula(match: Match, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    write_pairs(match, "r1", 100, path)
    text = path.read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")  # Excel then reads it as UTF-8
    assert b"merged" not in text
    assert b"few_shot" not in text
    rows = rows_in(path)
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 63
    assert [row["item"] for row in rows] == [pair.item for pair in match.pairs]
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert f"'{kind_answer(1)}" in cells
    assert HOSTILE in cells


def test_a_file_goes_there_and_back(match: Match, file: Path, project: RatedProject) -> None:
    rows = rows_in(file)
    for number, row in enumerate(rows):
        kind = kind_answer(int(row["item"][:3])).removeprefix("=")
        side = 1 if kind in row["answer_1"] else 2
        row["verdict"] = [str(side), f"{side}.0", str(3 - side), "both", "Neither can go out", ""][number]
    save(file, rows)
    assert read_verdicts(match, "r1", file) == ReadResult(recorded=5, empty=1)
    found = {rating.item: rating.verdict for rating in match.ratings()}
    assert [found.get(row["item"]) for row in rows] == ["candidate", "candidate", "rival", "both_good", "neither", None]
    assert read_verdicts(match, "r1", file) == ReadResult(unchanged=5, empty=1)
    assert len(read_ratings(project.store.root)) == 5


@pytest.mark.parametrize(
    "resave",
    [
        lambda path, rows: save(path, rows, delimiter=";", encoding="utf-8-sig"),
        lambda path, rows: save(path, rows, delimiter=";", before="sep=;\r\n"),
        lambda path, rows: save(path, rows, delimiter="\t", encoding="utf-16"),
        lambda path, rows: save(path, rows, delimiter=";", encoding="cp1252"),
        lambda path, rows: save(path, rows) or path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n")),
        lambda path, rows: save(path, [{key.upper(): value for key, value in row.items()} for row in rows]),
        lambda path, rows: save(path, [dict(reversed(row.items())) for row in rows]),
        lambda path, rows: save(path, [{**row, "answer_1": row["answer_1"].removeprefix("'") + " "} for row in rows]),
    ],
    ids=["excel", "excel with sep", "unicode text", "ansi", "unix", "upper case", "other order", "apostrophes lost"],
)
def test_what_spreadsheets_save_is_read(match: Match, file: Path, resave: Callable[[Path, list[Row]], None]) -> None:
    resave(file, rated(file))
    assert read_verdicts(match, "r1", file) == ReadResult(recorded=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "maybe"}, "The verdict 'maybe' is not one. Write 1, 2, both or neither."),
        ({"verdict": "3"}, "The verdict '3' is not one."),
        ({"item": "999:1"}, f"The item '999:1' is not one of {TUNED} and {PROMPT}. Name the pair"),
        ({"item": "017:1"}, "The item '017:1' is not one of"),  # its answers are the same: it was never asked
        ({"answer_1": "Something else."}, "An answer was changed, or is of another pair of models."),
        ({"answer_2": ""}, "An answer was changed, or is of another pair of models."),
        ({"note": "x" * 1001}, "The note has 1,001 characters."),
    ],
)
def test_a_bad_row_is_named_and_the_good_ones_are_kept(
    match: Match, file: Path, change: Row, message: str, project: RatedProject
) -> None:
    rows = rated(file)
    rows[2] |= change
    save(file, rows)
    result = read_verdicts(match, "r1", file)
    assert (result.recorded, len(result.faults)) == (5, 1)
    assert result.faults[0].startswith(f"Row 4: {message}")
    assert len(read_ratings(project.store.root)) == 5


def test_a_pair_that_is_there_twice_counts_once(match: Match, file: Path) -> None:
    rows = rated(file)
    save(file, [*rows, {**rows[0], "verdict": "neither"}])
    result = read_verdicts(match, "r1", file)
    assert (result.recorded, result.faults) == (
        6,
        ["Row 8: Its pair is also in row 2, which was used. Remove one of them."],
    )


def test_a_file_of_another_pair_of_models_is_not_used(project: RatedProject, match: Match, file: Path) -> None:
    save(file, rated(file))
    other = project.match(TUNED, "base")
    result = read_verdicts(other, "r1", file)
    assert (result.recorded, len(result.faults)) == (0, 6)
    assert "is of another pair of models" in result.faults[0]


def test_a_file_of_another_rater_is_not_used(match: Match, file: Path) -> None:
    save(file, rated(file))

    def on_other_sides(rater: str) -> list[Pair]:
        pairs = match.pairs[:6]
        return [pair for pair in pairs if match.side_of(TUNED, pair, "r1") != match.side_of(TUNED, pair, rater)]

    rater = next(name for name in (f"r{number}" for number in range(2, 100)) if on_other_sides(name))
    result, other = read_verdicts(match, rater, file), on_other_sides(rater)
    assert len([fault for fault in result.faults if "on the sides of another rater" in fault]) == len(other)
    assert result.recorded == 6 - len(other)


def test_answers_that_changed_since_are_not_rated(project: RatedProject, match: Match, file: Path) -> None:
    save(file, rated(file))
    project.compare(tuned=lambda number: f"New answer {number}.", loss=1.9)
    result = read_verdicts(project.match(), "r1", file)
    assert (result.recorded, len(result.faults)) == (0, 6)


def test_personal_data_is_masked_and_named(match: Match, file: Path) -> None:
    rows = rated(file, note="")
    rows[1]["note"] = "=ada@fenwick.example said so"
    save(file, [{**row, "rated by": "Ada Fenwick"} for row in rows])
    result = read_verdicts(match, "r1", file)
    assert result.notes == [
        "Not read: the columns 'rated by'.",
        "Row 3: Removed from the note, because it may name a person: an e-mail address.",
    ]
    assert {rating.note for rating in match.ratings()} == {None, "=[email] said so"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column item, answer_1, answer_2, verdict in its first row"),
        (b"item,question,answer_1,answer_2\n", "has no column verdict in its first row"),
        (b"PK\x03\x04...", "is a workbook, not CSV. Save it as CSV UTF-8"),
        (b"\xff\xfe\x00", "is not text. Save it as CSV UTF-8"),
    ],
)
def test_what_is_no_such_file_is_refused(match: Match, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_verdicts(match, "r1", path)
    with pytest.raises(UserError, match=r"cannot be read \(no such file or directory\)"):
        read_verdicts(match, "r1", tmp_path / "missing.csv")


def test_a_file_that_is_cut_off_keeps_its_good_rows(match: Match, file: Path) -> None:
    save(file, rated(file))
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"both") - 10])
    result = read_verdicts(match, "r1", file)
    assert result.recorded == 5


def test_a_file_is_never_overwritten(match: Match, file: Path) -> None:
    save(file, rated(file))
    before = file.read_bytes()
    with pytest.raises(UserError, match="exists, and may contain verdicts"):
        write_pairs(match, "r1", 6, file)
    assert file.read_bytes() == before


def test_only_pairs_that_are_left_are_written(match: Match, file: Path, tmp_path: Path) -> None:
    save(file, rated(file)[:4])
    read_verdicts(match, "r1", file)
    assert write_pairs(match, "r1", 6, tmp_path / "rest.csv") == 2
    assert [row["item"] for row in rows_in(tmp_path / "rest.csv")] == [pair.item for pair in match.pairs[4:6]]
    with pytest.raises(UserError, match="r1 has rated all 4 pairs"):
        write_pairs(match, "r1", 4, tmp_path / "none.csv")
    assert question(1) in {pair.question for pair in match.pairs}
