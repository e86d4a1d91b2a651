"""Write sections as Markdown, for the UI and for readers of a file."""

from collections.abc import Iterable

from ft_pipeline.page import Grid, Section


def markdown_of(sections: Iterable[Section]) -> str:
    """Return sections as Markdown: title, table, sentences. Those that are empty are left out."""
    return "\n\n".join(part for section in sections if section for part in _parts(section))


def _parts(section: Section) -> list[str]:
    parts = [section.title] if section.title else []
    parts += [_table(section.grid)] if section.grid and section.grid.rows else []
    return [*parts, *(sentence.replace("<", "&lt;") for sentence in section.sentences)]


def _table(grid: Grid) -> str:
    lines = [
        [_escape(heading.title) for heading in grid.headings],
        ["---:" if heading.is_number else "---" for heading in grid.headings],
        *([_escape(cell.in_full) for cell in row] for row in grid.cells),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
