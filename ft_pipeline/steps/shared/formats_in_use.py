"""Which formats of rows a project uses: those that it cannot do without, and those that files or settings ask for."""

from collections.abc import Iterator

from ft_pipeline.project import Project
from ft_pipeline.sources.local_folder import has_files
from ft_pipeline.step import SpecContext
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.tables.formats.registry import FORMATS, OPTIONAL
from ft_pipeline.training.objectives.registry import OBJECTIVES


def is_format_used(project: Project, data_format: str) -> bool:
    """Return whether folder and table of a format have rows, or something reads the table. What had files is made once
    more after they are gone, so that the steps after it take notice."""
    if data_format not in OPTIONAL:
        return True
    folders = (data_format, *FORMATS[data_format].also_reads)
    if any(has_files(project.raw_folder(name)) for name in folders):
        return True
    made = (*(f"raw_{name}" for name in folders), data_format)
    return any(_had_files(project, asset) for asset in made) or data_format in _asked_for(project)


def _had_files(project: Project, asset: str) -> bool:
    artifact = SpecContext(project, ArtifactStore(project.store)).find(asset)
    return artifact is not None and bool(artifact.summary["files"])


def _asked_for(project: Project) -> Iterator[str]:
    """Yield the tables that experiments train on, and that prompts take passages from."""
    if any(variant.passages for variant in project.settings.scored_prompts().values()):
        yield "text"
    for settings in project.readable_experiments():
        yield from OBJECTIVES[settings.objective].tables(settings)
