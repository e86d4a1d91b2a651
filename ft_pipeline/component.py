"""A project as a component of any Dagster project: `type: ft_pipeline.FineTuning` in a defs.yaml."""

import re
from pathlib import Path

import click
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
            try:
                scaffold.create(root, example=False, small_example=request.params.example_of)
            except UserError as error:
                raise click.ClickException(str(error)) from None
            _write_names(root / "project.yaml", request.target_path.name)
        dg.scaffold_component(request, {"project": name})


@dg.scaffold_with(FineTuningScaffolder)
class FineTuning(dg.Component, dg.Model, dg.Resolvable):
    """The graph of an ft_pipeline project, with its jobs, schedules and sensors: from raw rows to a champion.

    Its names on this instance are in the section `dagster` of its project.yaml. Two projects need different
    prefixes there (`key_prefix`).
    """

    project: str = Field(description="Folder with project.yaml, relative to the Dagster project.")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions of the project. DagsterInvalidDefinitionError if the folder has none, or if it has no
        names of its own."""
        from ft_pipeline.definitions import of_served_project

        root = (context.project_root / self.project).resolve()
        try:
            prefix = Project.find(root).settings.dagster.key_prefix
        except UserError as error:
            raise dg.DagsterInvalidDefinitionError(str(error)) from None
        if not prefix:
            raise dg.DagsterInvalidDefinitionError(
                f"{root / 'project.yaml'} has no dagster.key_prefix, so that its names are not its own here. Add one, "
                "such as `dagster: {key_prefix: [support]}`."
            )
        with serving(root):
            return of_served_project()


def _write_names(path: Path, name: str) -> None:
    """Give a new project the name of its component, and put it before the names of its assets."""
    part, text = re.sub(r"[^A-Za-z0-9_]", "_", name), path.read_text(encoding="utf-8")
    section = yaml.safe_dump({"dagster": {"key_prefix": [part]}}, default_flow_style=None)
    own = part.lower().replace("_", "-").strip("-") or "project"
    named = re.sub(r"(?m)^name: .*$", f"name: {own}", text, count=1)
    why = f"# Its assets are {part}/scores and so on, beside those of other projects."
    path.write_text(f"{named}\n{why}\n{section}", encoding="utf-8")
