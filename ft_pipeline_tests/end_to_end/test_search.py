"""`ft sweep` on the tiny model: killed twice and resumed, and its result trained no second time."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import environment, ft, ft_json, small_project, write_experiment

pytestmark = [pytest.mark.slow, pytest.mark.long]
SEARCH = ("sweep", "lora", "--over", "training.learning_rate=1e-4..3e-2", "--over", "lora.r=2,8", "--trials", "5")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_project(tmp_path_factory.mktemp("search") / "shop", variants=False)
    (root / "experiments" / "qlora.yaml").unlink()
    write_experiment(root, "lora", root / "models" / "tiny", technique="lora", weight_decay=0.01)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["costs"] = {"gpu_hour": 2.0}
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return root


def trials(root: Path) -> list[dict[str, Any]]:
    """The records of the ended trials, oldest first."""
    return [artifact.document("trial.json") for artifact in ArtifactStore(root / "data" / "store").all("trial")]


def kill_in_trial(root: Path, number: int) -> None:
    """Start the search, and kill it while it trains the trial after `number` ended ones."""
    command = [str(Path(sys.executable).parent / "ft"), *SEARCH]
    process = subprocess.Popen(
        command, cwd=root, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    work = root / "data" / "store" / "work" / "adapter"
    deadline = time.monotonic() + 600
    while len(trials(root)) < number or not list(work.glob("*/checkpoints/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_search_that_was_killed_twice_goes_on(root: Path) -> None:
    kill_in_trial(root, 1)
    before = trials(root)
    kill_in_trial(root, len(before) + 1)
    done = ft_json(root, *SEARCH)
    assert trials(root)[: len(before)] == before, "an ended trial was trained again"
    assert [trial["number"] for trial in done["trials"]] == [1, 2, 3, 4, 5]
    store = ArtifactStore(root / "data" / "store")
    resumed = [artifact.summary["resumed_from_step"] for artifact in store.all("adapter")]
    assert sum(step > 0 for step in resumed) >= 1
    assert done["cost"] == pytest.approx(2.0 * done["seconds"] / 3600)
    assert ft_json(root, *SEARCH)["artifact"] == done["artifact"]

    chosen = done["chosen"]
    document = yaml.safe_load((root / "experiments" / f"{chosen['experiment']}.yaml").read_text(encoding="utf-8"))
    losses = {trial["number"]: trial["loss"] for trial in done["trials"] if trial["state"] == "complete"}
    assert chosen["trial"] == min(losses, key=lambda number: losses[number])
    assert document["training"]["weight_decay"] == 0.01
    if chosen["experiment"] != "lora":
        assert document["training"]["learning_rate"] == chosen["values"]["training.learning_rate"]


def test_the_chosen_experiment_is_not_trained_again_and_no_trial_is_a_candidate(root: Path) -> None:
    chosen = ft_json(root, *SEARCH)["chosen"]
    store = ArtifactStore(root / "data" / "store")
    adapters = len(store.all("adapter"))
    done = ft(
        root,
        "run",
        "--experiment",
        chosen["experiment"],
        "--select",
        "experiment,base_model,training_data,memory_estimate,adapter",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(store.all("adapter")) == adapters
    assert {row["name"] for row in ft_json(root, "experiments")["experiments"]} == {"lora", chosen["experiment"]}
    verified = ft(root, "audit", chosen["experiment"], "--verify")
    assert verified.returncode == 0, verified.stdout[-3000:]
    assert not store.all("scores"), "a search looks at no test row"


def test_an_unknown_key_or_a_missing_budget_is_refused(root: Path) -> None:
    for arguments, message in (
        (("--over", "lora.rr=8", "--trials", "2"), "unknown key `lora.rr`"),
        (("--over", "lora.r=8"), "A search needs an end."),
        (("--over", "lora.r=8", "--budget", "soon"), "is not a duration"),
    ):
        refused = ft(root, "sweep", "lora", *arguments)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


def test_the_study_is_recorded(root: Path) -> None:
    (artifact,) = ArtifactStore(root / "data" / "store").all("sweep")
    document = json.loads((artifact.path / "sweep.json").read_text(encoding="utf-8"))
    assert document["seed"] == 42 and len(artifact.inputs) == len(document["trials"])
