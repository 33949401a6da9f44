"""Where people read: whatever a text holds is shown, and nothing in it is obeyed."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from stantune.texts import printable


class PrintingConsole(Console):
    """A console that shows the control characters of texts: names in a search's table may be anybody's."""

    def render_str(self, text: str, **how: Any) -> Text:
        """See Console; what a terminal would not print is escaped."""
        return super().render_str(printable(text), **how)
