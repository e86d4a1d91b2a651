"""The graph and a plan have the steps that settings and files of the project ask for, and no others."""

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.repository_definition import RepositoryLoadData

from ft_pipeline import scaffold
from ft_pipeline.definitions import of_served_project
from ft_pipeline.execution.planning import plan
from ft_pipeline.project import Project, serving
from ft_pipeline.step import STEPS, used_steps
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.graph import of_all_steps

OFF = {"gguf", "gguf_scores", "judgements", "ratings", "searched_prompt", "worth", "inbox"}
OPTIONAL = {"chat", "traces", "text", "preferences", "feedback"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The classification example: its rows are in data/raw/alpaca."""
    return Project(scaffold.create(tmp_path / "shop", example=False, small_example="classification"))


def change(project: Project, file: str = "project.yaml", **settings: object) -> Project:
    path = project.root / file
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text(encoding="utf-8")), **settings}), encoding="utf-8")
    return Project(project.root)


def commit(project: Project, name: str, experiment: str | None = None, *, is_empty: bool = False) -> None:
    """Make a stand-in for a result, with an input and a file, or with neither."""
    store, inputs = ArtifactStore(project.store), {}
    if not is_empty:
        source = store.commit(store.begin(Spec("source")), {})
        inputs = {"source": source.reference}
    made = store.commit(store.begin(Spec(name, inputs)), {"files": len(inputs)})
    AssetPointers(store.root).write(name, experiment, made)


def graph(project: Project) -> dict[str, dg.AssetSpec]:
    with serving(project.root):
        return {spec.key.to_user_string(): spec for spec in of_served_project().resolve_all_asset_specs()}


def test_the_graph_has_what_the_project_uses(project: Project) -> None:
    shown = graph(project)
    assert len(shown) <= 25, sorted(shown)
    assert not OFF & shown.keys() and not OPTIONAL & shown.keys()
    assert {"alpaca", "conversations", "adapter", "prompt_baseline", "comparison", "report"} <= shown.keys()
    for name, spec in shown.items():
        assert {dep.asset_key.to_user_string() for dep in spec.deps} <= shown.keys(), name


def test_every_step_is_known_whatever_the_graph_has(project: Project) -> None:
    with serving(project.root):
        assert {key.to_user_string() for key in of_all_steps().resolve_asset_graph().get_all_asset_keys()} == {
            *STEPS,
            "inbox",
        }


def test_settings_and_files_add_steps(project: Project) -> None:
    def added(changed: Project) -> set[str]:
        return used_steps(changed) - before

    of_all_steps()
    before = used_steps(project)
    experiment = next((project.root / "experiments").glob("*.yaml"))
    assert added(change(project, f"experiments/{experiment.name}", gguf=["q8_0"])) == {"gguf", "gguf_scores"}
    (project.root / "data" / "raw" / "traces").mkdir(parents=True, exist_ok=True)
    (project.root / "data" / "raw" / "traces" / "calls.jsonl").write_text("{}\n", encoding="utf-8")
    tables = {"raw_traces", "traces", "feedback", "raw_feedback"}
    assert tables <= added(project)
    assert {"worth"} <= added(change(project, worth={"by": "file"}))
    assert "searched_prompt" in added(change(project, prompting={"search": {}}))
    assert {"raw_text", "text"} <= added(change(project, prompting={"variants": {"looked_up": {"passages": 2}}}))


def test_an_experiment_asks_for_the_table_that_it_trains_on(project: Project) -> None:
    of_all_steps()
    (project.root / "experiments" / "pairs.yaml").write_text("technique: lora\nobjective: dpo\n", encoding="utf-8")
    assert {"raw_preferences", "preferences"} <= used_steps(Project(project.root))


def test_a_result_keeps_a_step_until_it_is_empty(project: Project) -> None:
    """What reads it notices that it was turned off."""
    of_all_steps()
    (name, *_) = project.experiment_names()
    commit(project, "gguf", name)
    assert {"gguf", "gguf_scores"} <= used_steps(project)
    commit(project, "gguf", name, is_empty=True)
    assert not {"gguf", "gguf_scores"} & used_steps(project)


def test_a_run_keeps_the_graph_that_was_loaded(project: Project) -> None:
    """What it makes would remove a step that is still to come."""
    of_all_steps()
    (name, *_) = project.experiment_names()
    commit(project, "gguf", name)
    with serving(project.root):
        loaded = of_served_project().metadata or {}
    commit(project, "gguf", name, is_empty=True)
    assert "gguf_scores" not in graph(project)
    data = RepositoryLoadData({}, reconstruction_metadata=loaded)
    with DefinitionsLoadContext.scoped(DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION, data)):
        assert {"gguf", "gguf_scores"} <= graph(project).keys()


def test_a_folder_whose_files_are_gone_is_read_once_more(project: Project) -> None:
    of_all_steps()
    commit(project, "raw_text")
    assert {"raw_text", "text"} <= used_steps(project)
    commit(project, "raw_text", is_empty=True)
    assert not {"raw_text", "text"} & used_steps(project)


def test_a_broken_project_has_every_step(project: Project) -> None:
    of_all_steps()
    (project.root / "project.yaml").write_text("name: [\n", encoding="utf-8")
    assert used_steps(Project(project.root)) >= {"gguf", "worth", "judgements"}
    assert {"gguf", "inbox"} <= graph(project).keys()


def test_a_plan_has_unused_steps_only_on_request(project: Project) -> None:
    of_all_steps()
    names = project.experiment_names()
    assert not OFF & {step.asset for step in plan(project, names)}
    assert "gguf" in {step.asset for step in plan(project, names, selected=["gguf"])}
