"""The Dagster resource of every asset, schedule and sensor: the project folder and its store."""

import dagster as dg

from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore


class ProjectResource(dg.ConfigurableResource):
    """The project that the code location serves.

    It has no configuration: a person who can launch a run must not be able to name another folder.
    """

    def find(self) -> Project:
        """Return the project. UserError if there is none, or if project.yaml is missing."""
        return Project.find()

    def store(self) -> ArtifactStore:
        """Return its store."""
        return ArtifactStore(self.find().store)


RESOURCES = {"ft_project": ProjectResource()}
"""The resources of the definitions, and of assets that are materialized without them."""
