"""The state in a checkpoint besides the weights: restored exactly, and saved without pickle."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ft_pipeline.store.pickles import begins_like_a_pickle, named_like_a_pickle
from ft_pipeline.training.trainer.checkpoint_state import load_tree, random_state, save_tree, set_random_state
from ft_pipeline.training.trainer.checkpoints import newest_valid, seal


def equal(left: Any, right: Any) -> bool:
    """Whether values and types are equal at every level."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


@pytest.mark.parametrize(
    "value",
    [
        {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3).bfloat16()}},
            "groups": [{"lr": 0.1 + 0.2}],
        },
        {"betas": (0.9, 0.999), "none": None, "flag": True, "name": "x", "empty": [], "nested": [(1, [2])]},
        {"quantised": torch.arange(8, dtype=torch.uint8), "nothing": torch.empty(0), "scalar": torch.tensor(7)},
        {"numbers": np.arange(5, dtype=np.uint32), 7: float("inf")},
        [],
    ],
)
def test_a_saved_tree_is_loaded_unchanged(tmp_path: Path, value: Any) -> None:
    save_tree(tmp_path, "it", value)
    assert equal(load_tree(tmp_path, "it"), value)
    assert not any(named_like_a_pickle(path.name) or begins_like_a_pickle(path) for path in tmp_path.iterdir())


def test_tensors_that_share_memory_are_saved_separately(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_tree(tmp_path, "it", {"whole": whole, "again": whole, "part": whole[2:4]})
    loaded = load_tree(tmp_path, "it")
    assert torch.equal(loaded["part"], torch.tensor([2.0, 3.0])) and torch.equal(loaded["again"], whole)


def test_values_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not complex"):
        save_tree(tmp_path, "it", {"a": [1j]})
    with pytest.raises(TypeError, match="not tuple"):
        save_tree(tmp_path, "it", {(1, 2): 3})


def test_the_random_generators_continue_after_a_resume(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    save_tree(tmp_path, "random", random_state())
    first = draw()
    assert draw() != first
    set_random_state(load_tree(tmp_path, "random"))
    assert draw() == first


def fake_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[torch.Generator]:
    """Replace the generators of `count` GPUs with freshly seeded ones, as in a new process."""
    generators = [torch.Generator() for _ in range(count)]
    for generator in generators:
        generator.seed()

    def set_all(states: list[torch.Tensor]) -> None:
        for device, state in enumerate(states):
            torch.cuda.set_rng_state(state, device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "default_generators", tuple(generators))
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [generator.get_state() for generator in generators])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: generators[device].set_state(state))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_all)
    return generators


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 1), (1, 3)])
def test_the_generators_of_all_gpus_in_both_runs_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, now: int
) -> None:
    def draw(generators: list[torch.Generator]) -> list[float]:
        return [float(torch.rand(1, generator=generator)) for generator in generators]

    generators = fake_gpus(monkeypatch, before)
    save_tree(tmp_path, "random", random_state())
    expected = draw(generators)
    drawn = []
    for _ in range(2):
        generators = fake_gpus(monkeypatch, now)
        set_random_state(load_tree(tmp_path, "random"))
        drawn.append(draw(generators))
    shared = min(before, now)
    assert drawn[0][:shared] == expected[:shared]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == now  # further GPUs: the same in every run, and all different


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit"])
def test_an_optimizer_continues_exactly_after_a_resume(tmp_path: Path, optimizer: str) -> None:
    import bitsandbytes

    def make() -> tuple[torch.nn.Linear, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(128, 64)
        kind = torch.optim.AdamW if optimizer == "AdamW" else bitsandbytes.optim.AdamW8bit
        return model, kind(model.parameters(), lr=0.1)

    def step(model: torch.nn.Linear, optimizer: Any, seed: int) -> None:
        torch.manual_seed(seed)
        model(torch.randn(4, 128)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, first_optimizer = make()
    step(model, first_optimizer, 1)
    save_tree(tmp_path, "optimizer", first_optimizer.state_dict())
    resumed_model, resumed_optimizer = make()
    resumed_model.load_state_dict(model.state_dict())
    resumed_optimizer.load_state_dict(load_tree(tmp_path, "optimizer"))
    for seed in (2, 3):
        step(model, first_optimizer, seed)
        step(resumed_model, resumed_optimizer, seed)
    assert torch.equal(model.weight, resumed_model.weight)


def test_a_checkpoint_with_pickled_state_is_not_resumed(tmp_path: Path) -> None:
    """Not even if its seal is valid: an earlier version wrote such checkpoints, and an attacker could."""
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({}))
    seal(folder)
    assert newest_valid(tmp_path) == folder
    (folder / "optimizer.pt").write_bytes(b"\x80\x04.")
    seal(folder)
    assert newest_valid(tmp_path) is None
