"""llama.cpp computes what the model computes: logits in 32 bit, independent sequences, greedy answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.evaluated_model import EvaluatedModel
from ft_pipeline.gguf.files import Matrices, quantize, read_matrices
from ft_pipeline.gguf.settings import GGUF_TYPES
from ft_pipeline.models.load import load_model
from ft_pipeline_tests.gguf_files import Converted

IDS = [3, 40, 41, 270, 300, 12, 55, 90, 301, 44]
OTHER_IDS = [3, 40, 41, 99, 98, 97, 96]


@pytest.fixture(scope="module")
def expected(converted: Converted) -> np.ndarray:
    """The model's logits of IDS by torch in 32 bit."""
    with torch.inference_mode():
        logits = load_model(converted.model, "cpu", dtype=torch.float32)(torch.tensor([IDS])).logits[0]
    return logits.numpy()


def test_the_logits_in_32_bit_are_the_models(converted: Converted, expected: np.ndarray) -> None:
    with EvaluatedModel(converted.exact, 64, exact=True) as model:
        np.testing.assert_allclose(model.logits(IDS), expected, atol=1e-4)
        np.testing.assert_allclose(model.logits(IDS, len(IDS) - 3), expected[-3:], atol=1e-4)


def test_a_sequence_does_not_depend_on_the_one_before(converted: Converted) -> None:
    with EvaluatedModel(converted.exact, 64) as model:
        alone = model.logits(IDS, 2)
        model.logits(OTHER_IDS)
        model.answer(IDS[:4], {2}, 8)
        np.testing.assert_allclose(model.logits(IDS, 2), alone, atol=2e-2)  # keys and values are kept in 16 bit


def test_an_answer_is_the_best_token_at_each_step(converted: Converted) -> None:
    with EvaluatedModel(converted.exact, 64, exact=True) as model:
        answer = model.answer(IDS, {2}, 6)
        best = model.logits(IDS + answer[:-1], len(IDS) - 1).argmax(axis=1)
        assert answer == best.tolist()
        stop = answer[2]
        assert model.answer(IDS, {stop}, 6) == answer[: answer.index(stop) + 1]


def test_a_sequence_may_be_longer_than_a_batch(converted: Converted) -> None:
    ids = [IDS[index % len(IDS)] for index in range(700)]
    with EvaluatedModel(converted.exact, 1024, exact=True) as model:
        whole = model.logits(ids)
        assert whole.shape == (700, model.vocabulary_size)
        np.testing.assert_allclose(model.logits(ids[:300]), whole[:300], atol=1e-4)


def test_every_type_name_is_known_to_llama_cpp(converted: Converted, tmp_path: Path) -> None:
    sizes = {}
    for name in GGUF_TYPES:
        quantize(converted.exact, tmp_path / f"{name}.gguf", name)
        sizes[name] = (tmp_path / f"{name}.gguf").stat().st_size
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q4_0"]


def test_rows_that_no_k_quant_takes_are_counted(converted: Converted, tmp_path: Path) -> None:
    quantize(converted.exact, tmp_path / "file.gguf", "q4_k_m")
    matrices = read_matrices(tmp_path / "file.gguf", "q4_k_m")
    assert matrices.fallback == matrices.total == 15
    assert (matrices.describe() or "").startswith("No matrix has the type that was asked for")
    assert read_matrices(converted.exact, "f32") == Matrices({"F32": 15}, 0)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"llama\.cpp cannot load broken\.gguf"):
        EvaluatedModel(path, 16)
    with pytest.raises(UserError, match=r"cannot quantize the model to q8_0"):
        quantize(path, tmp_path / "out.gguf", "q8_0")
    assert not (tmp_path / "out.gguf").exists()
