"""The partitions of the graph: one key for each experiment and sweep member, kept in step with experiments/*.yaml.

The keys are in Dagster's instance, so that a new YAML needs no reload of the definitions. Keys are names: what an older
version materialized under its static partitions has the same keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from ft_pipeline.execution.dagster_names import experiment_of, is_own_run, prefixed
from ft_pipeline.execution.run_overview import ACTIVE
from ft_pipeline.project import Project


@dataclass(frozen=True)
class PartitionChanges:
    """How the keys in the instance differ from the files."""

    new: list[str]
    gone: list[str]
    """Keys that no YAML defines, and of which no run is under way."""


def partitions_name() -> str:
    """Return the name of the partitions definition. Dynamic partitions of one name are shared in a whole instance."""
    return prefixed("experiments")


def experiments() -> dg.DynamicPartitionsDefinition:
    """Return the only partitions definition of the graph: the experiments and their sweep members.

    Because there is only one definition, a key that is selected in the UI is one run of the whole graph.
    """
    return dg.DynamicPartitionsDefinition(name=partitions_name())


def add_partitions(instance: dg.DagsterInstance, names: Iterable[str]) -> None:
    """Add the keys that the instance does not have yet. A run of an unknown key cannot be started."""
    known = set(instance.get_dynamic_partitions(partitions_name()))
    if new := [name for name in dict.fromkeys(names) if name not in known]:
        instance.add_dynamic_partitions(partitions_name(), new)


def find_partition_changes(instance: dg.DagsterInstance, project: Project) -> PartitionChanges:
    """Compare the keys in the instance with the YAML files. Nothing is changed."""
    known, names = instance.get_dynamic_partitions(partitions_name()), project.experiment_names()
    undefined = [key for key in known if key not in names and not project.defines(key)]
    under_way = experiments_under_way(instance) if undefined else {}
    return PartitionChanges(
        new=[name for name in names if name not in known],
        gone=[key for key in undefined if key not in under_way],
    )


def experiments_under_way(
    instance: dg.DagsterInstance, except_with: Mapping[str, str] | None = None
) -> dict[str, datetime]:
    """Return this project's experiments of which a run has not ended, and when the oldest one was created.

    except_with: runs with all these tags do not count.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=ACTIVE))
    under_way: dict[str, datetime] = {}
    for record in filter(lambda record: is_own_run(record.dagster_run), records):
        counts = except_with is None or not except_with.items() <= record.dagster_run.tags.items()
        if counts and (name := experiment_of(record.dagster_run)):
            under_way[name] = min(record.create_timestamp, under_way.get(name, record.create_timestamp))
    return under_way
