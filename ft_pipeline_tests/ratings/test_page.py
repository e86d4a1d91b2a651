"""The page of `ft rate` over HTTP."""

import socket

import pytest

from ft_pipeline.audit.verify import verify
from ft_pipeline.errors import UserError
from ft_pipeline.execution.local_page import LocalPage
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.ratings.rating_ledger import read_ratings
from ft_pipeline_tests.ratings.rated import HOSTILE, PROMPT, TUNED, RatedProject, curt_answer, kind_answer
from ft_pipeline_tests.ratings.visiting import visiting


def test_a_rater_goes_through_all_pairs_and_then_sees_names_and_result(project: RatedProject) -> None:
    match = project.match()
    with visiting(match, number=5) as visitor:
        visitor.open()
        asked = []
        for done in range(5):
            assert f"{done} of 5 rated" in visitor.html
            for name in ("lora", "few_shot", "merged"):
                assert name not in visitor.html
            number = int(visitor.item[:3])
            assert sorted(visitor.answers) == sorted([kind_answer(number), curt_answer(number)])
            assert f"answer {number}" in visitor.html
            asked.append(visitor.item)
            visitor.choose(str(1 + visitor.answers.index(kind_answer(number))))
        assert asked == [pair.item for pair in match.pairs[:5]]
        assert "All 5 pairs are rated" in visitor.html
        assert TUNED not in visitor.html
        visitor.send("result", {})
        assert f"{TUNED} is better in 5, {PROMPT} in 0; 0 are ties." in visitor.html
        assert "7 more test items have the same answer twice" in visitor.html
        assert f"ft rate {TUNED} {PROMPT} -n 50" in visitor.html
    ratings = read_ratings(project.store.root)
    assert [(rating.item, rating.verdict, rating.rater) for rating in ratings] == [
        (item, "candidate", "r1") for item in asked
    ]
    assert all(rating.seconds is not None and rating.seconds >= 0 for rating in ratings)
    assert verify(ArtifactIndex(project.store.root)).problems == ()


def test_a_result_is_not_shown_before_the_last_pair(project: RatedProject) -> None:
    with visiting(project.match(), number=2) as visitor:
        visitor.open().choose("both")
        visitor.send("result", {})
        assert "1 of 2 rated" in visitor.html
        assert TUNED not in visitor.html


def test_a_verdict_can_be_changed_until_the_result_was_shown(project: RatedProject) -> None:
    match = project.match()
    with visiting(match, number=2) as visitor:
        visitor.open().choose("neither", "Both are rude.")
        visitor.open(f"?item={match.pairs[0].item}")
        assert 'value="neither" accesskey="n" aria-pressed="true"' in visitor.html
        assert "Both are rude." in visitor.html
        visitor.choose("both", "Both are rude.")
        assert visitor.item == match.pairs[1].item
    assert [rating.verdict for rating in read_ratings(project.store.root)] == ["neither", "both_good"]
    (rating,) = match.ratings()
    assert (rating.verdict, rating.note) == ("both_good", "Both are rude.")


def test_a_form_that_is_sent_twice_counts_once(project: RatedProject) -> None:
    with visiting(project.match()) as visitor:
        visitor.open()
        form = {"item": visitor.item, "verdict": "1", "note": ""}
        visitor.send("verdict", form).send("verdict", form)
    assert len(read_ratings(project.store.root)) == 1


def test_texts_of_models_and_users_are_only_text(project: RatedProject) -> None:
    project.compare(tuned=lambda number: HOSTILE)
    match = project.match()
    with visiting(match) as visitor:
        visitor.open("?item=003:1")
        assert "<script>" not in visitor.html
        assert "&lt;script&gt;" in visitor.html
        assert "\\u202e" in visitor.html
        assert "default-src 'none'" in visitor.headers["Content-Security-Policy"]


def test_personal_data_in_a_note_is_masked_and_the_rater_is_told(project: RatedProject) -> None:
    with visiting(project.match()) as visitor:
        visitor.open().choose("1", "Ask ada@fenwick.example, 0151 23456789 first.")
        assert "Removed from the note, because it may name a person: an e-mail address, a phone number." in visitor.html
    (rating,) = read_ratings(project.store.root)
    assert rating.note == "Ask [email], [phone] first."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"item": "nothing:1", "verdict": "1"}, "This is no verdict about one of the pairs."),
        ({"item": "000:1", "verdict": "3"}, "This is no verdict about one of the pairs."),
        ({"verdict": "1"}, "This is no verdict about one of the pairs."),
        ({"item": "000:1", "verdict": "1", "note": "x" * 1001}, "The note has 1,001 characters. Shorten it to 1,000."),
        ({"item": "000:1", "verdict": "1", "note": "x" * 70_000}, "The form has more than 64,000 bytes."),
    ],
)
def test_a_bad_form_is_refused_with_a_sentence(project: RatedProject, fields: dict[str, str], message: str) -> None:
    with visiting(project.match()) as visitor:
        visitor.send("verdict", fields)
        assert visitor.status == 409
        assert message in visitor.html
        assert "Traceback" not in visitor.html
    assert read_ratings(project.store.root) == []


def test_other_sites_cannot_rate_or_read(project: RatedProject) -> None:
    with visiting(project.match()) as visitor:
        visitor.open()
        form = {"item": visitor.item, "verdict": "1"}
        assert visitor.send("verdict", form, Origin="https://evil.example").status == 403
        assert visitor.send("verdict", form, **{"Sec-Fetch-Site": "cross-site"}).status == 403
        assert visitor.open(Host="evil.example").status == 403
        assert "Open it as 127.0.0.1." in visitor.html
    assert read_ratings(project.store.root) == []


def test_a_row_that_was_erased_meanwhile_is_not_rated(project: RatedProject) -> None:
    match = project.match()
    (match.comparison.path / "samples.parquet").write_bytes(b"")
    with visiting(match) as visitor:
        visitor.open().choose("1")
        assert (visitor.status, "Rows were erased since the answers were read" in visitor.html) == (409, True)
    assert read_ratings(project.store.root) == []


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} of 127\.0\.0\.1 is in use\. Choose another"):
            LocalPage(port)
