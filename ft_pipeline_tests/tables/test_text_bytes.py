"""The kernels over bytes do what regular expressions do."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.tables.text_bytes import having, squeezed, table_of

TEXTS = st.lists(st.text(st.sampled_from("ab 1-\t\x1f é"), max_size=8), max_size=6)
SPACED = bytes.maketrans(b"\t\x1f-", b"   ")


def array_of(texts: list[str], sliced: bool) -> pa.Array:
    """Return the texts, as a slice of more texts if `sliced`."""
    if sliced:
        return pa.array(["a  1", *texts, " \t"], pa.large_string())[1:-1]
    return pa.array(texts, pa.large_string())


@pytest.mark.parametrize("sliced", [False, True])
@settings(deadline=None)
@given(texts=TEXTS)
def test_having_is_a_search_for_single_bytes(sliced, texts):
    found = having(array_of(texts, sliced), table_of(b"1\t"))
    assert found.tolist() == [bool(re.search("[1\t]", text)) for text in texts]


@pytest.mark.parametrize("sliced", [False, True])
@settings(deadline=None)
@given(texts=TEXTS)
def test_squeezed_replaces_bytes_and_joins_spaces_within_a_text(sliced, texts):
    expected = [re.sub(" +", " ", re.sub("[\t\x1f-]", " ", text)) for text in texts]
    assert squeezed(array_of(texts, sliced), SPACED).to_pylist() == expected


def test_no_texts_and_empty_texts():
    nothing = pa.array([], pa.large_string())
    assert squeezed(nothing, SPACED).to_pylist() == [] and len(having(nothing, SPACED)) == 0
    empty = pa.array(["", ""], pa.large_string())
    assert squeezed(empty, SPACED).to_pylist() == ["", ""] and not np.any(having(empty, SPACED))
