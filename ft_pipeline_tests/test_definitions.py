"""The asset graph loads no heavy library, and declares its stages, partitions, pools and executor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ft_pipeline import scaffold
from ft_pipeline.execution.partitions import experiments
from ft_pipeline.execution.step_asset import gpu_op_tags

HEAVY = ("torch", "transformers", "peft", "trl", "lm_eval", "bitsandbytes", "datasets")
STAGES = {"sources", "tables", "distillation", "training", "evaluation", "release"}
ON_A_GPU = {"teacher_answers", "adapter", "merged_model", "prompt_baseline", "scores"}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    root = scaffold.create(tmp_path_factory.mktemp("graph") / "shop", example=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(root))
        patch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
        from ft_pipeline.definitions import defs

        return defs()


def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_loading_the_definitions_imports_nothing_heavy_and_warns_of_nothing(tmp_path: Path) -> None:
    root = scaffold.create(tmp_path / "shop", example=True)
    code = (
        "import sys, json; from ft_pipeline.definitions import defs, of_run; defs(); of_run({'gguf'}); "
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FT_PROJECT": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(process.stdout.splitlines()[-1]) == []
    assert process.stderr == ""


def test_every_asset_has_a_stage_description_owner_kind_and_version(definitions: dg.Definitions) -> None:
    for name, spec in specs(definitions).items():
        assert spec.group_name in STAGES, name
        assert spec.description and spec.owners and spec.kinds and spec.code_version, name


def test_the_graph_flows_from_sources_to_release(definitions: dg.Definitions) -> None:
    order = ["sources", "tables", "distillation", "training", "evaluation", "release"]
    specs_by_name = specs(definitions)
    backwards = [
        (dep.asset_key.to_user_string(), name)
        for name, spec in specs_by_name.items()
        for dep in spec.deps
        if order.index(specs_by_name[dep.asset_key.to_user_string()].group_name) > order.index(spec.group_name)
    ]
    assert backwards == []


def test_there_is_one_partitions_definition_and_it_needs_no_reload(definitions: dg.Definitions) -> None:
    partitions = {spec.partitions_def for spec in specs(definitions).values() if spec.partitions_def}
    assert partitions == {experiments()}


def test_assets_that_use_a_gpu_are_in_the_gpu_pool(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    in_pool = {key.to_user_string() for key in graph.materializable_asset_keys if "gpu" in graph.get(key).pools}
    assert in_pool == ON_A_GPU
    assert json.loads(json.dumps(gpu_op_tags())) == gpu_op_tags()


def test_the_definitions_are_loadable(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_a_run_is_one_process_or_one_kubernetes_pod_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_k8s")
    from dagster_k8s.job import get_user_defined_k8s_config

    from ft_pipeline.defs.executor import definitions as make_executor

    assert make_executor().executor.name == "in_process"
    monkeypatch.setenv("FT_EXECUTOR", "k8s")
    assert make_executor().executor.name == "k8s"

    @dg.asset(op_tags=gpu_op_tags(2))
    def adapter() -> None: ...

    container = get_user_defined_k8s_config(adapter.op.tags).container_config
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    monkeypatch.setenv("FT_EXECUTOR", "k9s")
    with pytest.raises(
        dg.DagsterInvalidDefinitionError, match=r"'k9s' is not an executor. Set it to in_process or k8s"
    ):
        make_executor()
