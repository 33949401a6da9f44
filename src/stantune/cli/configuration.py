"""`--config` and `--show-config`: a command's options as a TOML file, read and written."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from stantune.arguments import shown
from stantune.cli.panels import PANELS, PanelledCommand
from stantune.cli.wording import worded
from stantune.errors import UsageError
from stantune.files import read_small
from stantune.texts import brief, encodable

# What no file says: which file it is.
_OWN = ("config", "show_config")
# What is asked of one call, and not to be asked again by whoever gives its options again.
_OF_ONE_CALL = ("fresh", "accept_changes", "yes", "debug")
# Of a whole number: Python makes no text of much longer ones.
_MOST_BITS = 4096
# By kind: what a value of it is in TOML, and how to mend another.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "give true or false"),
    int: ((int,), "give a whole number, without quotes"),
    float: ((int, float), "give a number, without quotes"),
    # Where 0.5 and auto may stand, the option is a text to the command, and the number is one.
    str: ((str, int, float), "give a text in quotes, or a number"),
    Path: ((str,), "give a path in quotes"),
    list: ((list,), 'give a list of texts, such as ["…", "…"]'),
}


@dataclass(frozen=True)
class Key:
    """An option as a file has it.

    Attributes:
        name: its own, as in --name, or that of an argument.
        parameter: of the command's function.
        kind: one of those in _KINDS.
        metavar: what stands for its value where it has none.
    """

    name: str
    parameter: str
    kind: type
    metavar: str


def keys_of(command: Any) -> dict[str, Key]:
    """Return what a file may say to a command, by every name that an option has; its first name comes first."""
    hints = get_type_hints(inspect.unwrap(command.callback))
    keys = {}
    for parameter in command.params:
        if parameter.name in hints and parameter.name not in _OWN:
            names = [option.lstrip("-") for option in parameter.opts]
            kind = _kind(hints[parameter.name])
            key = Key(names[0], parameter.name, kind, parameter.metavar or ("N" if kind in (int, float) else "TEXT"))
            keys.update(dict.fromkeys(names, key))
    return keys


def read_options(file: Path, keys: Mapping[str, Key]) -> dict[str, Any]:
    """Return what a file says, by parameters of the command.

    Raises UsageError where it cannot be read, says something that is no option, or gives one a value of another kind.
    """
    try:
        table = tomllib.loads(read_small(file).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {file} cannot be read ({error.strerror}); name a TOML file with options") from error
    except UnicodeDecodeError:
        raise UsageError(f"--config {file} is no text in UTF-8; name a TOML file with options") from None
    except (ValueError, RecursionError) as error:
        why = "it nests too deep" if isinstance(error, RecursionError) else brief(error)
        raise UsageError(f"--config {file} is no TOML ({why}); write lines such as max-iterations = 600") from None
    said: dict[str, Any] = {}
    by_name: dict[str, str] = {}
    for name, value in table.items():
        key = keys.get(name)
        if key is None:
            near = difflib.get_close_matches(name.replace("_", "-"), keys, n=1)
            remedy = f"write {near[0]}" if near else "leave it out; --show-config lists all that there are"
            raise UsageError(f"{file} says {brief(name)} = {_written(value)}, and there is no such option; {remedy}")
        if key.parameter in by_name:
            raise UsageError(f"{file} says {by_name[key.parameter]} and {name}, which are one option; leave out one")
        by_name[key.parameter] = name
        kinds, remedy = _KINDS[key.kind]
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and key.kind is not bool)
        wrong = wrong or (isinstance(value, int) and value.bit_length() > _MOST_BITS)
        if wrong or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise UsageError(f"{file} says {name} = {_written(value)}, which is of another kind; {remedy}")
        if value != []:  # nothing is repeated no times
            said[key.parameter] = str(value) if key.kind is str else value
    return said


def options_text(
    values: Mapping[str, Any], keys: Mapping[str, Key], head: str, left_out: Collection[str] = (), shared: bool = False
) -> str:
    """Return options as the lines of a TOML file that `read_options` reads as they are.

    Args:
        values: by parameters; None for what has none.
        keys: what a file may say.
        head: its first line, a comment.
        left_out: parameters that it says nothing of.
        shared: whether others may see the file; it then says no URL that has a password.
    """
    by_parameter = {key.parameter: key for key in keys.values() if key.parameter not in left_out}
    panels = {parameter: panel for panel, parameters in PANELS.items() for parameter in parameters}
    sections: dict[str, list[str]] = {panel: [] for panel in ("", *PANELS)}
    for parameter, key in by_parameter.items():
        sections[panels.get(parameter, "")].append(_line(key, values.get(parameter), shared))
    titled = ["\n".join([f"# {panel}", *lines] if panel else lines) for panel, lines in sections.items() if lines]
    return "\n\n".join([f"# {head}", *titled])


class ConfiguredCommand(PanelledCommand):
    """A command whose options may stand in the file of --config; what is refused of them is said to stand there."""

    def parse_args(self, ctx: Any, args: Any) -> Any:
        """See TyperCommand."""
        with _blaming(ctx):
            rest = super().parse_args(ctx, args)
            _check_problem(ctx)
            return rest

    def invoke(self, ctx: Any) -> Any:
        """See TyperCommand."""
        with _blaming(ctx):
            return super().invoke(ctx)


def all_options(ctx: typer.Context) -> str:
    """Return the options of a command as it was given, those of its file and the default ones too."""
    head = f"All options of `{ctx.command_path}` with {_version()}, as `--config FILE` takes them."
    return options_text(ctx.params, keys_of(ctx.command), head)


def kept_options(ctx: typer.Context) -> str:
    """Return them as they are kept beside a search: without passwords, and without what was asked of one call."""
    head = f"The options of the last `{ctx.command_path}` that trained here, with {_version()}; for `--config FILE`."
    return options_text(ctx.params, keys_of(ctx.command), head, _OF_ONE_CALL, shared=True)


def _version() -> str:
    from importlib.metadata import version

    return f"stantune {version('stantune')}"


def _use(ctx: typer.Context, file: Path | None) -> Path | None:
    """Have the options of a file take the place of the default ones."""
    if file is not None:
        said = read_options(file, keys_of(ctx.command))
        # As a shell would for what is typed.
        ctx.default_map = {
            name: os.path.expanduser(value) if isinstance(value, str) else value for name, value in said.items()
        }
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Take options, and the problem, from a TOML file; those that are given here win.",
        callback=_use,
        is_eager=True,
    ),
]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print all options as such a file, and run nothing.")]


@contextmanager
def _blaming(ctx: Any) -> Iterator[None]:
    """Add to a refusal what the file says, where it says what is refused."""
    try:
        yield
    except typer.BadParameter as error:
        said = _said(ctx)
        parameter = error.param.name if error.param is not None else None
        if parameter not in said:
            raise
        raise UsageError(f"{said[parameter]}: {brief(error.message).rstrip('.')}; change it there") from error
    except UsageError as error:
        sentence, keys = worded(str(error)), {key.parameter: key for key in keys_of(ctx.command).values()}
        said = {
            parameter: words
            for parameter, words in _said(ctx).items()
            if re.search(rf"(?<![\w-])(--{keys[parameter].name}(?![\w-])|{parameter}=)", sentence)
            or (parameter == "problem" and repr(ctx.params.get("problem")) in sentence)
        }
        if not said:
            raise
        raise UsageError(f"{error} ({', '.join(said.values())})") from error


def _said(ctx: Any) -> dict[str, str]:
    """Return what the file says and the command line does not, in words, by parameters."""
    keys = {key.parameter: key for key in keys_of(ctx.command).values()}
    return {
        parameter: f"{ctx.params.get('config')} says {keys[parameter].name} = {_written(value)}"
        for parameter, value in (ctx.default_map or {}).items()
        if not _is_typed(ctx, parameter)
    }


def _check_problem(ctx: Any) -> None:
    """Raise UsageError where a problem is typed and the file is for another: its options are for that one."""
    named = (ctx.default_map or {}).get("problem")
    if named is not None and named != ctx.params["problem"]:
        raise UsageError(
            f"{ctx.params['config']} says problem = {_written(named)}, and the command {brief(ctx.params['problem'])}; "
            "leave one of them out"
        )


def _is_typed(ctx: Any, parameter: str) -> bool:
    source = ctx.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _kind(hint: Any) -> type:
    """Return the kind of an annotation such as `int | None` or `list[str] | None`."""
    one = (
        next((each for each in get_args(hint) if each is not type(None)), hint)
        if type(None) in get_args(hint)
        else hint
    )
    kind: type = get_origin(one) or one
    assert kind in _KINDS, f"no file can say a {kind}"
    return kind


def _line(key: Key, value: Any, shared: bool) -> str:
    if value is None or value in ([], ()):
        return f"# {key.name} = {key.metavar}"
    texts = [str(one) for one in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])]
    if any(encodable(text) != text for text in "\n".join(texts).split("\0")):
        return f"# {key.name} has a value that is no text in UTF-8"
    if shared and any(_masked(text) != text for text in texts):
        return f"# {key.name} has a password, which is kept nowhere"
    return f"{key.name} = {_toml(value)}"


def _masked(text: str) -> str:
    """Return a text without its password, if it is a URL that has one, or NAME=URL."""
    if "://" not in text:
        return text
    from stantune.search.table.storages.masking import without_password

    name, equals, url = text.partition("=")
    return f"{name}={without_password(url)}" if equals and "://" not in name else without_password(text)


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_passwords(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_passwords(each) for each in value]
    return _masked(value) if isinstance(value, str) else value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's texts are TOML's, but for one letter.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(value: Any) -> str:
    """Return a value of a file as it stands there, or nearly so; without a password."""
    try:
        value = _without_passwords(value)
    except RecursionError:  # tables in tables, by a key of many dots
        return f"a {type(value).__name__}"
    plain = isinstance(value, str | bool | int | float) or (
        isinstance(value, list) and all(isinstance(one, str | bool | int | float) for one in value)
    )
    try:
        return brief(_toml(value) if plain else shown(value))
    except ValueError:  # a whole number of too many digits
        return shown(value)
