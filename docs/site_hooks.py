"""MkDocs hooks: a page may link to any file of the repository, and the link works on GitHub and on the site.

A linked file outside docs/ becomes a page below repository/: Markdown as it is, other text as a block of code.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TABLE_LINE = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=[)#\s])")
"""The path of a relative link."""
SITE_FOLDER = "repository"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file outside docs/ that a page links to, and for those that these link to."""
    root = Path(config.docs_dir).parent
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while waiting:
        source, text = waiting.pop()
        for link in LINK.findall(text) if source.endswith(".md") else ():
            target = _target(root, source, link)
            if target is None or files.get_file_from_path(_site_path(target)):
                continue
            content = (root / target).read_text(encoding="utf-8")
            page = content if target.endswith(".md") else _code_page(target, content)
            files.append(File.generated(config, _site_path(target), content=page))
            waiting.append((target, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links between docs/ and the rest of the repository to the pages of the site, and code in tables."""
    root = Path(config.docs_dir).parent
    uri = page.file.src_uri
    source = uri.removeprefix(f"{SITE_FOLDER}/") if uri.startswith(f"{SITE_FOLDER}/") else f"docs/{uri}"
    if source.endswith(".md.md") or not (root / source).is_file():
        return markdown

    def rewritten(match: re.Match[str]) -> str:
        target = _target(root, source, match[1])
        return match[1] if target is None else posixpath.relpath(_site_path(target), posixpath.dirname(uri))

    return LINK.sub(rewritten, TABLE_LINE.sub(_without_escapes_in_code, markdown))


def _without_escapes_in_code(line: re.Match[str]) -> str:
    """GitHub needs `\\|` in the code of a table, and Python-Markdown would show the backslash."""
    return CODE.sub(lambda code: code[0].replace("\\|", "|"), line[0])


def _target(root: Path, source: str, link: str) -> str | None:
    """The linked file by its path in the repository; of a folder its README. None if there is no such file."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path.startswith(".."):
        return None
    if (root / path).is_dir():
        path += "/README.md"
    return path if (root / path).is_file() else None


def _site_path(target: str) -> str:
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"{SITE_FOLDER}/{target}" if target.endswith(".md") else f"{SITE_FOLDER}/{target}.md"


def _code_page(target: str, content: str) -> str:
    return f"# {target}\n\n````{LANGUAGES.get(Path(target).suffix, 'text')}\n{content.rstrip()}\n````\n"
