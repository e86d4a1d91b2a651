"""The split of a conversation. It depends only on the group, so that new rows never move existing rows."""

import numpy as np

from ft_pipeline.settings.project import DataSettings

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


def split_of(group: str, settings: DataSettings) -> str:
    """train, validation or test for a group (32 hex digits of a SHA-256)."""
    return SPLITS[int(place_in_splits(np.array([int(group[16:], 16)], dtype=np.uint64), settings)[0])]


def place_in_splits(low: np.ndarray, settings: DataSettings) -> np.ndarray:
    """Index into SPLITS from the low half of each group (uint64).

    The test share takes the lowest hashes and the validation share the next. A larger share takes rows from its
    neighbor and moves no other rows.
    """
    place = low / 2.0**64
    splits = np.full(len(low), TRAIN, dtype=np.uint8)
    splits[place < settings.test_share + settings.validation_share] = VALIDATION
    splits[place < settings.test_share] = TEST
    return splits
