"""A project as a component of any Dagster project: `type: ft_pipeline.FineTuning` in a defs.yaml."""

from pathlib import Path

import dagster as dg
import yaml
from pydantic import BaseModel, Field

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project, serving


class FineTuningParams(BaseModel):
    """What `dg scaffold defs` may be told."""

    project: str | None = Field(
        None,
        description="Folder of the project, relative to the Dagster project. By default, the component's name.",
    )
    example_of: str | None = Field(None, description="Write one of the small examples, such as classification.")


class FineTuningScaffolder(dg.Scaffolder[FineTuningParams]):
    """Writes the project, unless there is one, and the YAML that names it."""

    @classmethod
    def get_scaffold_params(cls) -> type[FineTuningParams]:
        return FineTuningParams

    def scaffold(self, request: dg.ScaffoldRequest[FineTuningParams]) -> None:
        name = request.params.project or request.target_path.name
        root = (request.project_root or Path.cwd()) / name
        if not (root / "project.yaml").is_file():
            scaffold.create(root, example=False, small_example=request.params.example_of)
            _write_prefix(root / "project.yaml", request.target_path.name)
        dg.scaffold_component(request, {"project": name})


@dg.scaffold_with(FineTuningScaffolder)
class FineTuning(dg.Component, dg.Model, dg.Resolvable):
    """The graph of an ft_pipeline project, with its jobs, schedules and sensors: from raw rows to a champion.

    Its names on this instance are in the section `dagster` of its project.yaml. Two projects need different
    prefixes there (`key_prefix`).
    """

    project: str = Field(description="Folder with project.yaml, relative to the Dagster project.")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions of the project. DagsterInvalidDefinitionError if the folder has none."""
        from ft_pipeline.definitions import of_served_project

        root = (context.project_root / self.project).resolve()
        try:
            Project.find(root)
        except UserError as error:
            raise dg.DagsterInvalidDefinitionError(str(error)) from None
        with serving(root):
            return of_served_project()


def _write_prefix(path: Path, name: str) -> None:
    """Add a prefix to project.yaml, so that a second project has other names."""
    part = "".join(letter if letter.isalnum() else "_" for letter in name)
    section = yaml.safe_dump({"dagster": {"key_prefix": [part]}}, default_flow_style=None)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"# Its assets are {part}/scores and so on, beside those of other projects.\n{section}")
