"""How rivals see a text: TF-IDF of its words and of its characters (scikit-learn)."""

from collections.abc import Sequence
from typing import Any

from ft_pipeline.evaluation.rivals.answered_questions import NoRival

MAX_FEATURES = 50_000
"""Most words, and most sequences of characters, that are told apart."""
VIEWS = ("words", "characters")


def vectorizer(view: str, vocabulary: dict[str, int] | None = None) -> Any:
    """Return a TfidfVectorizer of words and pairs of words, or of 2 to 5 characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    how = (
        {"analyzer": "word", "token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 2)}
        if view == "words"
        else {"analyzer": "char_wb", "ngram_range": (2, 5)}
    )
    return TfidfVectorizer(**how, sublinear_tf=True, max_features=MAX_FEATURES, vocabulary=vocabulary)


def fit_vectorizer(view: str, questions: Sequence[str]) -> Any:
    """Return a vectorizer with the features of these questions. Raises NoRival if they have none."""
    try:
        return vectorizer(view).fit(questions)
    except ValueError:  # scikit-learn's "empty vocabulary"
        raise NoRival("the training questions have no words") from None
