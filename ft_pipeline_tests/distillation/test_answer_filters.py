"""The filters of teacher answers, one fault each, and their thresholds on real answers."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.distillation.answer_filters import (
    MAX_REPETITION,
    STOCK_PHRASES,
    Context,
    check_answer,
    copied_share,
    length_range,
    repeated_share,
)
from ft_pipeline_tests.distillation.material import answer_row

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
EXAMPLE = [
    {"role": "user", "content": "Where are the chairs from LF-294860?"},
    {
        "role": "assistant",
        "content": "The two chairs travel in a second parcel, which is in transit and due on Thursday.",
    },
]
CONTEXT = Context("Returns are free within thirty days of delivery.", [EXAMPLE], (20, 120))
PROMPT = "My rug, order LF-118204, has the wrong colour. Can I send it back to you?"
GOOD = "Yes, within 30 days. I'm e-mailing a free return label for LF-118204 now."


def code_of(answer: str, prompt: str = PROMPT, finish_reason: str = "stop") -> str | None:
    fault = check_answer(answer_row(1, prompt, answer, finish_reason), CONTEXT)
    return fault.code if fault else None


def test_a_good_answer_has_no_fault() -> None:
    assert code_of(GOOD) is None


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("", "empty_output"),
        ("\u200b \n", "empty_output"),
        (f"{GOOD}<|im_end|>", "special_tokens"),
        ("You can send it back, and you can send it back, and you can send it back to us.", "repetition"),
        ("😀😁😂🤣" * 12, "repetition"),
        ("I'm sorry, but as an AI language model I cannot see orders.", "refusal_boilerplate"),
        ("I'm sorry for the confusion, but as a support agent, I'm not able to do so.", "refusal_boilerplate"),
        ("I don't have the capability to assist with tracking your rug.", "refusal_boilerplate"),
        ("I'm unable to assist with that, please ask somebody else.", "refusal_boilerplate"),
        ("Thank you, {{Customer Name}}, the label is on its way.", "unresolved_placeholder"),
        ("Dear [Your Name], the label is on its way to you now.", "unresolved_placeholder"),
        ("Dear <your name>, the label is on its way to you now.", "unresolved_placeholder"),
        (PROMPT.upper(), "output_equals_input"),
        ("My rug, order LF-118204, has the wrong colour. Can I send it back?", "output_equals_input"),
        ("The rug travels in a second parcel, which is in transit and due on Thursday.", "output_equals_input"),
        ("Yes, returns are free within thirty days of delivery.", "output_equals_input"),
        ("Yes, please send LF-294860 back to us in its packaging.", "output_equals_input"),
        ("Yes, you can.", "answer_length"),
        (" ".join(f"word{number}" for number in range(60)), "answer_length"),
    ],
)
def test_each_fault_has_its_code(answer: str, code: str) -> None:
    assert code_of(answer) == code


def test_a_cut_off_or_failed_answer_is_set_aside() -> None:
    assert code_of(GOOD, finish_reason="length") == "answer_cut_off"
    assert code_of("", finish_reason="context") == "teacher_failed"


def test_declining_a_request_by_policy_is_not_a_refusal() -> None:
    assert code_of("Sorry to hear that. The voucher ended on Sunday and I can't extend it.") is None
    assert code_of("I'm not able to change the carrier, but the tracking page lets you choose a day.") is None


def test_an_order_number_of_the_prompt_may_also_occur_in_an_example() -> None:
    assert code_of("I'm checking LF-294860 and come back to you today.", "Where is LF-294860 at the moment?") is None


def test_markdown_links_are_not_placeholders() -> None:
    assert code_of("The [order page](https://larkfield.example) shows the status.") is None


def test_the_length_range_is_computed_from_human_answers() -> None:
    assert length_range([100] * 19) is None
    assert length_range(range(50, 150)) == (25, 185)


@given(st.text(max_size=400))
def test_shares_stay_between_0_and_1(text: str) -> None:
    assert 0 <= repeated_share(text) <= 1
    assert 0 <= copied_share(text, text[::2]) <= 1


def test_the_repetition_threshold_separates_degenerate_from_human_answers() -> None:
    """The threshold catches known degenerate answers and spares nearly everything that people wrote."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    lines = (SHARED / "alpaca" / "davinci_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    degenerate = sum(repeated_share(json.loads(line)["response"]) > MAX_REPETITION for line in lines)
    assert (degenerate, len(lines)) == (250, 252)
    alpaca = json.loads((SHARED / "alpaca" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    assert sum(repeated_share(row["output"]) > MAX_REPETITION for row in alpaca) == 18
    with (SHARED / "support" / "bitext_support.csv").open(encoding="utf-8", newline="") as file:
        support = [row["response"] for row in csv.DictReader(file)]
    assert not any(repeated_share(text) > MAX_REPETITION for text in support)
    assert sum(bool(STOCK_PHRASES.search(text)) for text in support) < 10


@pytest.mark.parametrize(
    ("reference", "answer", "code"),
    [
        (None, "It is on its way, and will be there on Friday.", None),
        ("JKT-URB-009", "JKT-URB-009", None),
        ("JKT-URB-009", "The cheapest one is the jkt-urb-009.", None),
        ("JKT-URB-009", "JKT-URB-010", "reference_mismatch"),
        ("JKT-URB-009", "JKT-ALP-009", "reference_mismatch"),
        ("42", "There are 142 of them.", "reference_mismatch"),
        ("Königsberg", "It was Königsberg.", None),
        ("≥", "Use ≥ here.", None),
        ("≥", "Use < here.", "reference_mismatch"),
    ],
)
def test_an_answer_must_contain_its_reference(reference, answer, code):
    row = {**answer_row(1, "Which jacket is the cheapest one in the catalog?", answer), "reference": reference}
    fault = check_answer(row, CONTEXT)
    assert (fault.code if fault else None) == code
