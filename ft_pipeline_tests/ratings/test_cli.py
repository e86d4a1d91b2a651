"""`ft rate` as a user calls it, without its page."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.ratings.rating_ledger import read_ratings
from ft_pipeline_tests.ratings.rated import PROMPT, TUNED, RatedProject
from ft_pipeline_tests.ratings.visiting import Visitor


def ft(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["rate", *arguments])


def ft_json(*arguments: str) -> Any:
    return json.loads(ft(*arguments, "--json").stdout)


def error_of(*arguments: str) -> str:
    failure = ft(*arguments).exception
    assert isinstance(failure, UserError), failure
    return str(failure)


def fill(path: Path, verdict: str) -> None:
    path.write_bytes(path.read_bytes().replace(b",,\r\n", f",{verdict},\r\n".encode()))


def test_without_names_the_pairs_that_are_worth_rating_are_listed(project: RatedProject) -> None:
    done = ft()
    assert done.exit_code == 0
    assert f"Rate with: ft rate {TUNED} {PROMPT}" in done.stdout
    (pair,) = ft_json()["pairs"]
    assert (pair["candidate"], pair["rival"], pair["rated"], pair["clear"]) == (TUNED, PROMPT, 0, True)
    match = project.match()
    match.rate(match.pairs[0], "r1", "neither")
    assert ft_json()["pairs"][0]["rated"] == 1


def test_a_spreadsheet_goes_out_and_comes_back(project: RatedProject, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    done = ft(TUNED, PROMPT, "-n", "6", "--rater", "ben", "--csv", str(path))
    assert f"Wrote 6 pairs to {path}" in done.stdout
    assert f"ft rate {TUNED} {PROMPT} --rater ben --read {path}" in done.stdout
    fill(path, "both")
    done = ft(TUNED, PROMPT, "-n", "6", "--rater", "ben", "--read", str(path))
    assert done.exit_code == 0
    assert "6 verdicts recorded, 0 recorded before, 0 rows without a verdict." in done.stdout
    assert f"{TUNED} is better in 0, {PROMPT} in 0; 6 are ties." in done.stdout
    assert "50 pairs may decide" in done.stdout


def test_no_result_is_printed_before_the_last_pair(project: RatedProject, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    ft(TUNED, PROMPT, "-n", "6", "--csv", str(path))
    fill(path, "maybe")
    done = ft(TUNED, PROMPT, "--read", str(path))
    assert done.exit_code == 1
    assert done.stdout.count("The verdict 'maybe' is not one.") == 6
    assert "r1 has rated 0 of 60 pairs. Run the same command to go on." in done.stdout
    assert "better in" not in done.stdout


def test_who_has_rated_everything_sees_the_result_again(project: RatedProject) -> None:
    match = project.match()
    for pair in match.pairs[:2]:
        match.rate(pair, "r1", "candidate")
    document = ft_json(TUNED, PROMPT, "-n", "2")
    assert (document["rated"], document["of"], document["identical"]) == (2, 2, 7)
    assert (document["result"]["wins"], document["result"]["raters"]) == (2, {"r1": 2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TUNED,), "One name is missing. Name two rows: ft rate CANDIDATE RIVAL"),
        ((TUNED, "nothing"), "The comparison has no row 'nothing'."),
        ((TUNED, PROMPT, "--csv", "a", "--read", "b"), "--csv and --read exclude each other."),
        ((TUNED, PROMPT, "--rater", "ada@fenwick.example"), "The alias contains an e-mail address."),
        ((TUNED, PROMPT, "--rater", "0151-23456789"), "The alias contains a phone number."),
        ((TUNED, PROMPT, "--rater", "Ada Fenwick"), "An alias has up to 20 of a to z"),
        ((TUNED, PROMPT, "--rater", ""), "An alias has up to 20 of a to z"),
    ],
)
def test_bad_arguments_get_one_clear_error(project: RatedProject, arguments: tuple[str, ...], message: str) -> None:
    error = error_of(*arguments)
    assert error.startswith(message)
    assert "Fenwick" not in error
    assert read_ratings(project.store.root) == []


def test_without_a_comparison_there_is_nothing_to_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = RatedProject.create(tmp_path / "new", signed=False)
    monkeypatch.setenv("FT_PROJECT", str(project.root))
    assert error_of() == "There is no comparison yet. Run `ft run`."
    assert error_of(TUNED, PROMPT) == "There is no comparison yet. Run `ft run`."


@pytest.mark.long
def test_the_command_keeps_what_was_rated_when_it_is_stopped_and_ends_after_the_result(project: RatedProject) -> None:
    def start() -> tuple[subprocess.Popen[str], Visitor]:
        command = [str(Path(sys.executable).parent / "ft"), "rate", TUNED, PROMPT, "-n", "4"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Rate at http://127.0.0.1:"), line
        return process, Visitor(line.split()[2])

    process, visitor = start()
    visitor.open().choose("1").choose("2")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "r1 has rated 2 of 4 pairs. Run the same command to go on." in out
    assert "All verdicts are kept." in err
    assert "better in" not in out
    process, visitor = start()
    visitor.open().choose("both").choose("neither").send("result", {})
    assert f"{TUNED} is better in" in visitor.html
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{TUNED} is better in" in out
    assert "Traceback" not in err
