"""`ft export --format gguf`, over files that are in the store: the gate, the folder, the card, and who finds them."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.export import (
    GgufExport,
    adapt_card,
    plan_gguf,
    require_mergeable,
    require_writable,
    write_gguf,
)
from ft_pipeline.gguf.modelfile import Modelfiles
from ft_pipeline.gguf.scored_files import ScoredFiles, find_gguf
from ft_pipeline.release.model_lookup import ModelReference, find_model
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.release.trained import SYSTEM_PROMPT, Trained

LIMITS = {"max_loss_increase": 0.05, "max_kl": 0.02}
CARD = "---\nlibrary_name: transformers\n---\n\n# a\n\n## How to use\n\n```python\nchat\n```\n\n## Results\n\nGood.\n"


def cost(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.001, "high": value + 0.001}


def put_gguf(trained: Trained, experiment: str, types: list[str], kl: float = 0.001) -> ScoredFiles:
    """Commit GGUF files of an experiment's merged model, and their scores. kl: of the last type."""
    merged = trained.inputs[experiment]["merged_model"]
    entries = {name: {"file": f"shop-{experiment}-{name}.gguf", "note": f"About {name}."} for name in types}

    def write(out: Path) -> None:
        for name, entry in entries.items():
            (out / entry["file"]).write_bytes(b"GGUF" + name.encode())
        (out / "gguf.json").write_text(json.dumps({"name": "shop", "files": entries}), encoding="utf-8")

    files = trained.put("gguf", {"merged_model": merged}, write, {}, {"name": "shop", "types": types})
    measured = {"loss_increase": cost(0.002), "agreement": cost(0.97), "identical": cost(0.6)}
    costs = {name: {**measured, "kl": cost(kl if name == types[-1] else 0.0001)} for name in types}
    summary = {"costs": costs, "broken_rails": {name: [] for name in types}, "notes": [], "conversion": {}}
    scores = trained.put("gguf_scores", {"merged_model": merged, "gguf": files}, _note, summary, {"types": types})
    return ScoredFiles(files, scores)


def _note(out: Path) -> None:
    (out / "scores.json").write_text("{}", encoding="utf-8")


@pytest.fixture
def own(trained: Trained, tmp_path: Path) -> Trained:
    """A copy of the project, which a test may change."""
    copied = copy.copy(trained)
    copied.root = shutil.copytree(trained.root, tmp_path / "shop", ignore=shutil.ignore_patterns("work"))
    copied.store = ArtifactStore(copied.root / "data" / "store")
    return copied


@pytest.fixture
def model(own: Trained) -> ModelReference:
    return require_mergeable(find_model(own.store, "lora"))


def plan(own: Trained, model: ModelReference, target: Path, scored: ScoredFiles, **options: Any) -> GgufExport:
    chosen = {"limits": LIMITS, "modelfiles": Modelfiles({"Modelfile.q8_0": "FROM ./x"}), **options}
    return plan_gguf(own.store, model, target, scored, ["q8_0", "q4_k_m"], **chosen)


def write(planned: GgufExport) -> str:
    """Write the folder, and return its card."""

    def describe(folder: Path) -> None:
        (folder / "README.md").write_text(adapt_card(CARD, planned), encoding="utf-8")

    write_gguf(planned, describe)
    return (planned.target / "README.md").read_text(encoding="utf-8")


def test_the_file_of_a_model_is_found_by_its_type(own: Trained, model: ModelReference) -> None:
    with pytest.raises(UserError, match=r"no GGUF file of lora/merged of the type q8_0\. Run `ft export lora DIR"):
        find_gguf(own.store, model, None)
    put_gguf(own, "lora", ["q4_k_m"])
    assert find_gguf(own.store, model, None).name == "shop-lora-q4_k_m.gguf"  # the only one
    put_gguf(own, "lora", ["q8_0", "q4_k_m"])
    assert find_gguf(own.store, model, None).name == "shop-lora-q8_0.gguf"
    assert find_gguf(own.store, model, "q4_k_m").read_bytes() == b"GGUFq4_k_m"
    with pytest.raises(UserError, match="of the type q6_k"):
        find_gguf(own.store, model, "q6_k")


def test_a_changed_file_is_not_handed_out(own: Trained, model: ModelReference) -> None:
    put_gguf(own, "lora", ["q8_0"])
    find_gguf(own.store, model, "q8_0").write_bytes(b"GGUFother")
    with pytest.raises(UserError, match=r"gguf \w+ is not in the store, or is damaged"):
        find_gguf(own.store, model, "q8_0")


def test_files_of_another_model_are_not_found(own: Trained, model: ModelReference) -> None:
    put_gguf(own, "whole", ["q8_0"])
    with pytest.raises(UserError, match=r"no GGUF file of lora/merged"):
        find_gguf(own.store, model, "q8_0")
    other = require_mergeable(find_model(own.store, "whole"))
    assert find_gguf(own.store, other, "q8_0").name == "shop-whole-q8_0.gguf"


def test_a_file_that_fails_the_gate_is_refused_with_its_number(
    own: Trained, model: ModelReference, tmp_path: Path
) -> None:
    scored = put_gguf(own, "lora", ["q8_0", "q4_k_m"], kl=0.0312)
    with pytest.raises(UserError) as error:
        plan(own, model, tmp_path / "out", scored, force=False)
    assert str(error.value).startswith(
        "The GGUF file fails its gate. q4_k_m: its KL from the merged model is 0.0312, more than max_kl 0.02. Choose"
    )
    assert plan(own, model, tmp_path / "out", scored, force=True).failures["q4_k_m"]
    looser = plan(own, model, tmp_path / "out", scored, force=False, limits={**LIMITS, "max_kl": 0.04})
    assert looser.failures == {"q8_0": [], "q4_k_m": []}


def test_the_folder_has_the_files_the_card_and_how_to_decode(own: Trained, tmp_path: Path) -> None:
    model = require_mergeable(find_model(own.store, "whole"))
    scored = put_gguf(own, "whole", ["q8_0", "q4_k_m"])
    card = write(plan(own, model, tmp_path / "out", scored, force=False))
    out = tmp_path / "out"
    names = {"README.md", "generation_config.json", "shop-whole-q8_0.gguf", "shop-whole-q4_k_m.gguf", "Modelfile.q8_0"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "generation_config.json").read_text(encoding="utf-8"))["do_sample"] is False
    assert "library_name: gguf" in card and "```python" not in card and card.endswith("## Results\n\nGood.\n")
    row = "| shop-whole-q4_k_m.gguf | 0.0 | +0.0020 (+0.0010 to +0.0030) | 0.0010 (0.0000 to 0.0020) | 0.970 (0.969 to "
    assert row in card and "About q8_0." in card and "llama-server -m shop-whole-q8_0.gguf" in card
    assert "ollama create my-model -f Modelfile.q8_0" in card


def test_the_system_prompt_is_on_the_card(own: Trained, tmp_path: Path, model: ModelReference) -> None:
    scored = put_gguf(own, "lora", ["q8_0", "q4_k_m"])
    prompted = ModelReference(**{**vars(model), "serving": {**model.serving, "system_prompt": SYSTEM_PROMPT}})
    card = write(plan(own, prompted, tmp_path / "out", scored, force=False, modelfiles=Modelfiles(problem="A date.")))
    assert "There is no Modelfile for Ollama. A date." in card
    assert all(f"> {line}" in card for line in SYSTEM_PROMPT.splitlines())


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(UserError, match=r"file/out cannot be written \(Not a directory\)\. Choose another folder"):
        require_writable(tmp_path / "file" / "out")
    require_writable(tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_models_without_merged_weights_are_refused(own: Trained) -> None:
    with pytest.raises(UserError, match="was not trained, so there is no GGUF file"):
        require_mergeable(find_model(own.store, "base"))
    learned = find_model(own.store, "learned")
    with pytest.raises(UserError, match="is a learned prompt without merged weights"):
        require_mergeable(learned)
