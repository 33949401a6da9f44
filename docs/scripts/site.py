"""What MkDocs needs to show the pages as they are elsewhere: the examples that they link to, lists as in CommonMark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).parents[2] / "examples"


class ListsAsElsewhere(Extension):
    """What belongs to a list is indented by two characters, as CommonMark has it; Python-Markdown asks for four."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Set the indentation."""
        md.tab_length = 2


def on_config(config: Any) -> Any:
    """Add the extension."""
    config.markdown_extensions.append(ListsAsElsewhere())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Put the examples into the site."""
    for path in sorted(EXAMPLES.glob("*.py")):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Have links to the examples' folder beside docs/ lead to those of the site."""
    return markdown.replace("](../examples/", "](examples/")
