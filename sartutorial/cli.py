"""The command line: a command is a public function, read from its signature and its docstring."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token
from cyclopts.config import Dict

import sartutorial
from sartutorial import InputError, __version__, files, lulc, profiles

HELP = """From a raw ALOS-2 PALSAR-2 scene to a land-cover map, step by step.

SCENE is a file, a URL or a folder of scenes, or several of them; PATCHES the folder that `patches`
wrote. Every command can be run again: it goes on where it stopped, and leaves alone what is done.
`run` takes them all from one file; for a first world, `sartutorial simulate --out world`.
"""
# In the order in which data flows. A command is the public function of its name, or of this one.
NAMES = (
    "simulate downsample label patches export import sample pretrain import-weights finetune "
    "evaluate predict mosaic table1 run"
)
NAMED = {"patches": "cut", "import": "import_patches"}
COMMANDS = {name: NAMED.get(name, name.replace("-", "_")) for name in NAMES.split()}
UNSHOWN = {"progress", "on_epoch"}  # a command shows its progress; hooks are for callers in Python
WORDS = ("reference", "hr-lulc", "worldcover")  # that stand where a path may
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


def _path(token: Token) -> str:
    """The path that is meant: one of a recipe lies in the recipe's folder."""
    path = os.path.expanduser(token.value)  # no shell does so in a file, or after `--out=`
    named = token.source == "cli" or path in WORDS or files.is_virtual(path)
    return path if named else os.path.join(_read(token.source)[0], path)


def _paths(hint: Any, tokens: Sequence[Token]) -> str | list[str]:
    paths = [_path(token) for token in tokens]
    if hint is Path:
        return paths[0]
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
        return Annotated[Path, Parameter(converter=_paths)]
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
    command.__doc__ = _renamed(function.__doc__ or "")
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def __getattr__(name: str) -> Callable[..., Any]:
    """The command of a public function: cyclopts asks only for the one that it runs."""
    function = name.removeprefix("command_")
    if function == name or function not in COMMANDS.values():
        raise AttributeError(name)
    return _command(getattr(sartutorial, function))


def _docstring(name: str) -> str:
    """The docstring of a public function, read from its source: the list of commands imports none."""
    source = Path(__file__).parent / f"{sartutorial._HOME[name].replace('.', '/')}.py"
    text = source.read_text(encoding="utf-8")
    found = re.search(rf'^def {name}\(.*?^    """(.*?)"""', text, re.DOTALL | re.MULTILINE)
    return inspect.cleandoc(_renamed(found[1])) if found else ""


def _renamed(docstring: str) -> str:
    for name, function in COMMANDS.items():
        docstring = docstring.replace(f"``{function}``", f"``{name}``")
    return docstring


def _read(file: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The folder that a recipe's paths lie in, and its sections by command."""
    try:
        sections = yaml.safe_load(Path(file).read_bytes()) or {}  # bytes: YAML knows their encoding
        data = os.path.expanduser(sections.pop("data", None) or "")
        recipe = {
            name.replace("_", "-"): {str(k): v for k, v in (options or {}).items() if v is not None}
            for name, options in sections.items()
        }
    except OSError as error:
        raise files.unreadable(file, error, "recipe") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    except (AttributeError, TypeError) as error:
        said = "must hold a section a command, such as 'patches: {size: 64}'"
        raise InputError(f"{file}: {said}") from error
    for unknown in recipe.keys() - COMMANDS.keys():
        raise InputError(f"{file}: there is no command {unknown}; see 'sartutorial --help'")
    return data, recipe


def _configure(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what ``--config`` holds for this command and nobody gave by hand."""
    named = arguments.get("--config")
    if not (named and named.tokens):
        return
    file = os.path.expanduser(named.tokens[0].value)
    Dict(_read(file)[1], source=file)(app, commands, arguments)
    for argument in arguments:
        if len(argument.tokens) > 1 and get_origin(argument.hint) is not list:
            raise InputError(f"{file}: {argument.name} takes one value")


# Of a command: CPU seconds at least, and for a GB that it reads (in an epoch); GB that it writes for one;
# GB of memory. Measured with the laptop's networks (experiments/recipe_costs.py); those of larger scales
# multiply so many times more for a pixel: in pretraining, and with a decoder.
COSTS = {
    "simulate": (2, 510, 1.4, 0.6),
    "downsample": (0.5, 17, 0.24, 0.2),
    "label": (1.2, 45, 0.02, 0.2),
    "patches": (1.4, 20, 1.5, 0.3),
    "sample": (5.3, 0, 0.01, 0.3),
    "pretrain": (10, 360, 0.0, 1.4),
    "finetune": (10, 470, 0.0, 1.3),
    "evaluate": (7.8, 50, 0.0, 1.1),
    "predict": (10, 2200, 0.02, 1.1),
}
SCALES = {"laptop": (1, 1), "gpu": (12, 32), "japan": (40, 119)}
SIMULATED = 1.5e-9  # GB a pixel of a scene that is full
BY_PIXEL = ("downsample", "label")  # void pixels take their time; elsewhere they are left out
Size = tuple[float, float]
INPUTS = ("tiles", "labels", "sar", "table", "file", "encoder", "model", "scene", "patches")


def run(recipe: Path, *, dry_run: bool = False) -> list[str]:
    """Run a recipe, from data to table and map: a command a section, in the order of the data.

    Run again, it goes on where it stopped.

    Args:
        recipe: YAML with a section a command and, as ``data``, the folder that its paths lie in.
        dry_run: Touch nothing: check options and inputs, and say what each command would take here.

    Raises:
        InputError: An option does not fit, or an input is neither there nor made by an earlier section.
    """
    file, steps = str(recipe), {}
    for name in sorted(_read(file)[1], key=list(COMMANDS).index):
        command, bound, _ = app.parse_args([name, "--config", file])
        bound.apply_defaults()
        steps[name] = partial(command, *bound.args, **bound.kwargs), bound.arguments
    plan = _plan({name: given for name, (_, given) in steps.items()})
    for name, (work, _) in {} if dry_run else steps.items():
        print(f"$ sartutorial {name} --config {file}", flush=True)
        _print(work())
    return plan if dry_run else []


def _plan(steps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What each step reads, takes and writes, a line each; InputError if it lacks its input."""
    lines, made = [], dict[str, Size]()  # of a folder, once the steps before have run
    scale = profiles.get()
    for name, given in steps.items():
        scale = profiles.get(given.get("profile") or scale.name)
        lulc.legend(given.get("legend") or "hr-lulc")
        stored = full = SIMULATED * ((given.get("side") or scale.world) * scale.scene_size) ** 2
        for key in (key for key in INPUTS if isinstance(given.get(key), list | str | Path)):
            several = given[key] if isinstance(given[key], list) else [given[key]]
            found = [_size(f"{name}: {key}", str(path), made, given.get("out")) for path in several]
            stored, full = (sum(sizes) for sizes in zip(*found, strict=True))
        start, seconds, written, memory = COSTS.get(name, (5, 0, 0, 1))
        if name in ("pretrain", "finetune", "evaluate", "predict"):
            seconds *= given.get("epochs", 0) or getattr(scale, f"{name}_epochs", 1)
            seconds *= SCALES.get(scale.name, (1, 1))[name != "pretrain"]
        share = written * (2 / given.get("factor", 2)) ** 2
        made |= {str(given["out"]): (stored * share, full * share)} if given.get("out") else {}
        minutes = (start + seconds * (full if name in BY_PIXEL else stored)) / 60
        least = "" if scale.name == "laptop" else "at least "  # larger networks were not measured
        reads, takes, disk = (f"{float(f'{x:.2g}'):g}" for x in (stored, minutes, stored * share))
        need = f"{disk} GB of disk, {least}{memory} GB of memory"
        lines.append(f"{name:<11}reads {reads} GB, takes {takes} min of one core, {need}")
    return lines


def _size(what: str, path: str, made: Mapping[str, Size], out: Path | None) -> Size:
    """GB of an input that is there or that an earlier step makes, and were no pixel of it void."""
    for folder in (path, *map(str, Path(path).parents)):
        if folder in made:
            return made[folder]
    if not (path in WORDS or files.is_virtual(path) or os.path.exists(path)):
        raise InputError(f"{what} {path}: neither there nor made by an earlier section")
    inside = [Path(path), *Path(path).rglob("*")]
    stored = full = sum(file.stat().st_size for file in inside if file.is_file()) / 1e9
    if what.endswith(": scene"):
        from sartutorial import rasters  # the list of commands needs none

        full = 0.0
        for scene in files.find_scenes(path, without=out):
            with rasters.opened(scene) as sar:
                full += SIMULATED * sar.width * sar.height
        stored = min(stored or full, full)  # neither far ones, nor an archive's other layers
    return stored, full


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
for place, (name, function) in enumerate(COMMANDS.items()):
    app.command(f"{__name__}:command_{function}", name, help=_docstring(function), sort_key=place)


def _print(result: Any) -> None:
    for item in result if isinstance(result, list) else [result]:
        if item is not None:
            table = hasattr(item, "to_string")
            print(item.to_string(float_format="{:.3f}".format) if table else item)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Any error is one line and an exit code.

    Args:
        arguments: The words after ``sartutorial``; default those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _print(app(words))
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
