"""What MkDocs needs to show the pages as they are elsewhere: the examples that they link to, lists as in CommonMark."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from markdown.blockprocessors import CodeBlockProcessor, ListIndentProcessor, OListProcessor, UListProcessor
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.site")
EXAMPLES = Path(__file__).parents[2] / "examples"


class ListsAsElsewhere(Extension):
    """What belongs to a list is indented by two characters, as CommonMark has it; Python-Markdown asks for four."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Set the indentation, and make anew what has read it already."""
        md.tab_length = 2
        for made, name, priority in (
            (ListIndentProcessor, "indent", 90),
            (CodeBlockProcessor, "code", 80),
            (OListProcessor, "olist", 40),
            (UListProcessor, "ulist", 30),
        ):
            md.parser.blockprocessors.register(made(md.parser), name, priority)


def on_config(config: Any) -> Any:
    """Add the extension."""
    config.markdown_extensions.append(ListsAsElsewhere())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Put the examples into the site."""
    for path in sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("caffe/*.prototxt")]):
        place = path.relative_to(EXAMPLES.parent).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Have links to the examples' folder beside docs/ lead to those of the site."""
    return markdown.replace("](../examples/", "](examples/")


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Warn of lists that want an empty line before them here, and elsewhere do without."""
    for found in re.finditer(r"<p>(?:(?!</p>).)*?\n(- .{1,40})", html, re.DOTALL):
        LOG.warning(f"Doc file '{page.file.src_uri}' needs an empty line before {found[1]!r}.")
    return html
