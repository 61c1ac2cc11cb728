"""The command line: a command is a public function, read from its signature and its docstring."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token
from cyclopts.config import Dict

import sartutorial
from sartutorial import InputError, __version__

HELP = """From a raw ALOS-2 PALSAR-2 scene to a land-cover map, step by step.

A first run on simulated data, in minutes on two cores:

    sartutorial simulate --out world
    sartutorial downsample world/scenes --out half
    sartutorial label half --tiles world/lulc --out labels
    sartutorial patches half --labels labels --out patches
    sartutorial sample patches --tiles world/lulc
    sartutorial pretrain patches --out encoder
    sartutorial finetune patches --encoder encoder/encoder.safetensors --out model
    sartutorial evaluate patches --model model/model.safetensors
    sartutorial predict half --model model/model.safetensors --out maps

SCENE is a file, a URL or a folder of scenes, or several of them; PATCHES the folder that `patches`
wrote. Every command can be run again: it goes on where it stopped, and leaves alone what is done.
"""
# In the order in which data flows. A command is the public function of its name, or of this one.
NAMES = (
    "simulate downsample label patches export import sample pretrain import-weights finetune "
    "evaluate predict mosaic table1"
)
NAMED = {"patches": "cut", "import": "import_patches"}
COMMANDS = {name: NAMED.get(name, name.replace("-", "_")) for name in NAMES.split()}
UNSHOWN = {"progress", "on_epoch"}  # a command shows its progress; hooks are for callers in Python
RECIPE = "YAML with a section a command, such as `patches: {size: 64}`; options by hand win."


def _every(
    *,
    config: Annotated[str | None, Parameter(help=RECIPE)] = None,
    debug: Annotated[bool, Parameter(negative=(), help="Show the traceback of an error.")] = False,
) -> None:
    """What every command takes beside its function's parameters."""


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """A whole number, also as YAML and people write large ones: 2e4."""
    text = tokens[0].value
    with suppress(ValueError, ZeroDivisionError):
        if (number := Fraction(text)).denominator == 1:
            return int(number)
    raise ValueError(f"{text} is not a whole number")


def _path(_: Any, tokens: Sequence[Token]) -> str:
    return os.path.expanduser(tokens[0].value)  # no shell does so in a file, or after `--out=`


def _paths(_: Any, tokens: Sequence[Token]) -> list[str]:
    paths = [os.path.expanduser(token.value) for token in tokens]
    for path in paths:
        if set("*?[") & set(path) and "://" not in path and not os.path.exists(path):
            raise InputError(f"{path}: no file fits this pattern, or it was quoted; name the files")
    return paths


def _option(hint: Any) -> Any:
    """How the command line reads a parameter with this annotation."""
    kinds = get_args(hint) or (hint,)
    if dataclasses.is_dataclass(hint):
        return Annotated[hint, Parameter(name="*")]  # an option a field
    if any(get_origin(kind) is Sequence for kind in kinds):
        return Annotated[list[Path], Parameter(converter=_paths)]
    if Path in kinds:
        return Annotated[Path, Parameter(converter=_path)]
    return Annotated[hint, Parameter(converter=_whole)] if int in kinds else hint


def _command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command that calls ``function`` with its options.

    The first parameter has its place on the line, unless it is ``out``; all others are options.
    """
    known = inspect.signature(function).parameters
    # Not what comes back: its type may be of a library that is imported only where it is needed.
    notes = {k: v for k, v in function.__annotations__.items() if k != "return"}
    hints = get_type_hints(SimpleNamespace(__annotations__=notes), function.__globals__)
    parameters = [
        p.replace(
            kind=p.KEYWORD_ONLY if place or name == "out" else p.POSITIONAL_OR_KEYWORD,
            annotation=_option(hints[name]),
        )
        for place, (name, p) in enumerate(known.items())
        if name not in UNSHOWN
    ]
    shown = {"progress": True} if "progress" in known else {}

    def command(*arguments: Any, config: Any = None, debug: Any = None, **options: Any) -> Any:
        return function(*arguments, **options, **shown)

    parameters += inspect.signature(_every, eval_str=True).parameters.values()
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def __getattr__(name: str) -> Callable[..., Any]:
    """The command of a public function: cyclopts asks only for the one that it runs."""
    if name not in COMMANDS.values():
        raise AttributeError(name)
    return _command(getattr(sartutorial, name))


def _docstring(name: str) -> str:
    """The docstring of a public function, read from its source: the list of commands imports none."""
    source = Path(__file__).parent / f"{sartutorial._HOME[name].replace('.', '/')}.py"
    text = source.read_text(encoding="utf-8")
    found = re.search(rf'^def {name}\(.*?^    """(.*?)"""', text, re.DOTALL | re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


def _configure(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what ``--config`` holds for this command and nobody gave by hand."""
    named = arguments.get("--config")
    if not (named and named.tokens):
        return
    file = os.path.expanduser(named.tokens[0].value)
    try:
        sections = yaml.safe_load(Path(file).read_bytes()) or {}  # bytes: YAML knows their encoding
        recipe = {
            name.replace("_", "-"): {str(k): v for k, v in (options or {}).items() if v is not None}
            for name, options in sections.items()
        }
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    except AttributeError as error:
        said = "must hold a section a command, such as 'patches: {size: 64}'"
        raise InputError(f"{file}: {said}") from error
    for unknown in recipe.keys() - COMMANDS.keys():
        raise InputError(f"{file}: there is no command {unknown}; see 'sartutorial --help'")
    Dict(recipe, source=file)(app, commands, arguments)
    for argument in arguments:
        if len(argument.tokens) > 1 and get_origin(argument.hint) is not list:
            raise InputError(f"{file}: {argument.name} takes one value")


app = App(
    name="sartutorial",
    help=HELP,
    help_format="markdown",
    version=__version__,
    config=_configure,
    default_parameter=Parameter(negative_iterable=()),
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
for place, (command, function) in enumerate(COMMANDS.items()):
    app.command(f"{__name__}:{function}", command, help=_docstring(function), sort_key=place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Any error is one line and an exit code.

    Args:
        arguments: The words after ``sartutorial``; default those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = app(words)
        for item in result if isinstance(result, list) else [result]:
            if item is not None:
                table = hasattr(item, "to_string")
                print(item.to_string(float_format="{:.3f}".format) if table else item)
        sys.stdout.flush()
        return
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except CycloptsError as error:
        message, token = " ".join(str(error).split()), getattr(error, "token", None)
        if token and token.source != "cli" and token.source not in message:
            message = f"{token.source}: {message}"
    except (InputError, OSError, ImportError) as error:
        if "--debug" in words:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"
    # Only now, when the traceback has let go of it, is a progress bar's line at its end.
    for line in message.splitlines():
        print(f"sartutorial: {line}", file=sys.stderr)
    sys.exit(1)
