"""A command with placeholders: checked when it is given, filled in for each training."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from stantune.arguments import shown
from stantune.errors import UsageError

# All of the setting, as a JSON object.
PARAMS = "params"

# A shell's, and characters that nobody uses in their places.
_OPERATORS = "();<>|&\n"
_HIDDEN = {ord(operator): 0xE000 + place for place, operator in enumerate(_OPERATORS)}
_SHOWN = {hidden: operator for operator, hidden in _HIDDEN.items()}
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.""", re.DOTALL)
# Where a placeholder stands in a shell's line.
_PLACE = "\0"
# What a shell's line is looked through by for here-documents: what has none, though it may have `<<`, comes first.
_HERE = re.compile(
    rf"""{_QUOTED.pattern}
    |\(\((?:[^()\n]|\([^()\n]*\))*\)\)                               # arithmetic
    |(?<![^\s;&|()])\#[^\n]*                                        # a comment
    |<<<
    |<<(?P<tabs>-?)[ \t]*(?P<end>(?:{_QUOTED.pattern}|[^\s;&|<>()'"\\])*)
    |\n""",
    re.DOTALL | re.VERBOSE,
)
# What stands before a program's name, with options and assignments.
_BEFORE_COMMANDS = {"!", "{", "command", "do", "else", "env", "exec", "nohup", "stdbuf", "sudo", "then", "time"}


class _Piece(NamedTuple):
    """Some text, and the placeholder after it, with how its value is printed; None at the end."""

    text: str
    name: str | None
    form: str


class Template:
    """A command whose placeholders, {lr}, are filled in; without a shell each argument is filled in for itself.

    Attributes:
        text: the command on one line.
        names: of its placeholders.
        plain: arguments without placeholders.
        program: the first argument, if it is one of these; None with a shell.
        first: the same, and with a shell the first word of its line.
        written: arguments that a shell's line has as files that it writes to, after `>`, `>>` and `tee`.
    """

    def __init__(self, command: str | Sequence[str], shell: bool = False) -> None:
        """Read a command.

        Args:
            command: a line, or its arguments one by one.
            shell: leave it to a shell to read the line, with each value quoted for it.

        Raises:
            UsageError: it is no command.
        """
        self._shell = shell
        for word in [] if isinstance(command, str) else command:
            if not isinstance(word, str):
                raise UsageError(f"the argument {word!r} of the command is no text; give it as one")
        self.text = command if isinstance(command, str) else shlex.join(command)
        if shell and not isinstance(command, str):
            raise UsageError(
                f"the command {self.text} is a list, and a shell reads lines; give one line, or no `shell`"
            )
        if not self.text.strip():
            raise UsageError("the command is empty; give the line that trains, such as 'python train.py --lr {lr}'")
        words = [command] if shell and isinstance(command, str) else _words(command)
        self._words = [_pieces(word, self.text) for word in words]
        self.names = [piece.name for word in self._words for piece in word if piece.name is not None]
        self.plain = [word[0].text for word in self._words if len(word) == 1 and word[0].name is None]
        first = self._words[0]
        self.program = None if shell or any(piece.name is not None for piece in first) else self.plain[0]
        self.first = self.program
        self.written: set[str] = set()
        self._in_documents: set[str] = set()
        if shell:
            line = _split(self.text)
            self.plain = [word for word in line if "{" not in word]
            self.first = self.plain[0] if self.plain and self.plain[0] == line[0] else None
            self.written = set(_written(self.text))
            _check_quotes(self._words[0])
            self._in_documents = _within_here_documents(self._words[0])

    def check(self, parameters: Mapping[str, Sequence[Any]], others: Mapping[str, Any]) -> None:
        """Check the placeholders.

        Args:
            parameters: some values of each.
            others: a value of the kind of each.

        Raises:
            UsageError: one is unknown, or has a form that does not print its values; or a parameter is used nowhere.
        """
        for name in parameters:
            if name in others:
                raise UsageError(
                    f"the parameter {name!r} has the name of a placeholder with a meaning of its own; rename it"
                )
        for name in self.names:
            if name not in parameters and name not in others:
                raise UsageError(
                    f"the placeholder {{{name}}} in the command {self.text!r} is unknown; there are "
                    f"{', '.join([*parameters, *others])}, and a brace that is meant as one is written twice"
                )
        for name in parameters:
            if name not in self.names and PARAMS not in self.names:
                raise UsageError(
                    f"the parameter {name!r} is used nowhere in the command {self.text!r}; write {{{name}}} where its "
                    f"value belongs, or {{{PARAMS}}} for all of them as JSON"
                )

        for piece in itertools.chain(*self._words):
            if piece.name is not None:
                values = parameters[piece.name] if piece.name in parameters else [others[piece.name]]
                for value in values:
                    self._check_form(piece.name, piece.form, value)
                    self._check_document(piece.name, _shown(value, piece.form))

    def _check_form(self, name: str, form: str, value: Any) -> None:
        try:
            _shown(value, form)
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(
                f"the placeholder {{{name}:{form}}} in the command {self.text!r} cannot print {shown(value)}, which "
                f"{name} may be ({error}); write {{{name}}}, or another form"
            ) from error

    def _check_document(self, name: str, told: str) -> None:
        """Raise UsageError where a text that is quoted would stand in a here-document, in which a shell expands it."""
        if name in self._in_documents and shlex.quote(told) != told:
            raise UsageError(
                f"the placeholder {{{name}}} stands within a here-document, where a shell expands values and keeps "
                f"their quotes, and it may be {shown(told)}; write the file with printf '%s\\n' {{{name}}}, or pass it "
                "as an argument"
            )

    def fill(self, values: Mapping[str, Any]) -> list[str]:
        """Return the arguments; for a shell one, its line. A parameter that has no value becomes an empty text."""
        quote: Callable[[str], str] = shlex.quote if self._shell else str
        return [
            "".join(
                piece.text if piece.name is None else piece.text + quote(_shown(values.get(piece.name), piece.form))
                for piece in word
            )
            for word in self._words
        ]


def _shown(value: Any, form: str) -> str:
    """Return a value as commands read it: a text as it is, everything else as JSON has it, None as an empty text."""
    if value is None:
        return ""
    if form:
        return format(value, form)
    return value if isinstance(value, str) else json.dumps(value)


def _words(command: str | Sequence[str]) -> list[str]:
    return _split(command) if isinstance(command, str) else list(command)


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the command {line!r} cannot be split into arguments ({error}); mend its quotes") from error


def _written(line: str) -> Iterator[str]:
    """Yield the words of a shell's line that are files which it writes to itself."""
    # A command ends with its line, but for one that goes on in the next. What is quoted is no operator.
    line = _QUOTED.sub(lambda quoted: quoted[0].translate(_HIDDEN), line.replace("\\\n", " "))
    words = shlex.shlex(line, posix=True, punctuation_chars=_OPERATORS)
    words.whitespace, words.whitespace_split, words.commenters = " \t\r", True, ""
    redirection, teed, first, piped = "", False, True, False
    for word in words:
        if set(word) <= set(_OPERATORS):
            # `>&` and `>|` among them; the output goes on to be a tee's after one.
            redirection = word if set(word) & set("<>") else ""
            if not redirection:
                teed, first, piped = False, True, "|" in word and "||" not in word
        elif redirection or teed:
            if ">" in redirection or not redirection:
                yield word.translate(_SHOWN)
            redirection = ""
        else:
            # Behind a pipe it may be the program of another one: `nice tee log`, `sudo -u me tee log`.
            teed = (first or piped) and PurePath(word).name == "tee"
            first = first and (word in _BEFORE_COMMANDS or word.startswith("-") or "=" in word)


def _pieces(word: str, command: str) -> list[_Piece]:
    try:
        parsed = list(string.Formatter().parse(word))
    except ValueError as error:
        raise UsageError(
            f"the command {command!r} has braces that do not match ({error}); write those twice that are no placeholder"
        ) from error
    pieces = []
    for text, name, form, conversion in parsed:
        if name is not None and (conversion or "{" in (form or "")):
            raise UsageError(
                f"the placeholder {{{name}…}} in the command {command!r} is no plain one; write {{{name}}}"
            )
        pieces.append(_Piece(text, name, form or ""))
    return pieces or [_Piece("", None, "")]


def _check_quotes(pieces: Sequence[_Piece]) -> None:
    """Raise UsageError where a placeholder stands within quotes: there its value could not be quoted itself."""
    quote = ""
    for piece in pieces:
        escaped = False
        for letter in piece.text:
            if escaped:
                escaped = False
            elif letter == "\\" and quote != "'":
                escaped = True
            elif letter == quote:
                quote = ""
            elif letter in "'\"" and not quote:
                quote = letter
        if piece.name is not None and (quote or escaped):
            raise UsageError(
                f"the placeholder {{{piece.name}}} stands within quotes, and values are quoted as they are filled in; "
                "leave the quotes around it away"
            )


def _within_here_documents(pieces: Sequence[_Piece]) -> set[str]:
    """Return the names of the placeholders that stand within a here-document of a shell's line."""
    text = "".join(piece.text if piece.name is None else piece.text + _PLACE for piece in pieces)
    names = [piece.name for piece in pieces if piece.name is not None]
    begun: list[re.Match[str]] = []
    found: set[str] = set()
    at = 0
    while token := _HERE.search(text, at):
        at = token.end()
        if token["end"] is not None:
            begun.append(token)
        elif token[0] == "\n":
            for document in begun:
                end = re.escape(re.sub(r"['\"\\]", "", document["end"]))
                tabs = r"\t*" if document["tabs"] else ""
                over = re.compile(rf"^{tabs}{end}$\n?", re.MULTILINE).search(text, at)
                if over is None and document["end"][0].isdigit():
                    # A shift of numbers that was not told from one.
                    continue
                until = over.start() if over else len(text)
                first = text.count(_PLACE, 0, at)
                found.update(names[first : first + text.count(_PLACE, at, until)])
                at = over.end() if over else len(text)
            begun = []
    return found
