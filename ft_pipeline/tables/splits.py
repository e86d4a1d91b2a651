"""The split of a row: a hash of its prompt decides, never the name of a file or the place of a row in it."""

import numpy as np

from ft_pipeline.settings.data import DataSettings

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


def place_in_splits(group: np.ndarray, settings: DataSettings) -> np.ndarray:
    """Return an index into SPLITS for each group (`Keys.group`).

    The test share takes the lowest hashes and the validation share the next. A larger share takes rows from its
    neighbor and moves no other rows.
    """
    place = group[:, 1] / 2.0**64
    splits = np.full(len(group), TRAIN, dtype=np.uint8)
    splits[place < settings.test_share + settings.validation_share] = VALIDATION
    splits[place < settings.test_share] = TEST
    return splits
