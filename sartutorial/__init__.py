"""From a raw ALOS-2 PALSAR-2 scene to a land-cover map: one module per step, one chapter per module."""

import signal
import sys
from importlib import import_module
from threading import Timer, get_ident
from types import FrameType
from typing import Any, get_args

__version__ = "0.2.0"

# The public names by the module they live in, which is imported when one of them is first used:
# `import sartutorial` needs neither GDAL nor torch.
_HOMES = {
    "radiometry": ["to_db", "to_power", "dn_to_db", "db_to_dn"],
    "lulc": ["Legend", "legend", "HR_LULC", "WORLDCOVER"],
    "files": ["find_scenes", "atomic_write", "made", "up_to_date", "map_scenes"],
    "rasters": ["read_db", "read_classes", "pixel_size"],
    "downsampling": ["downsample", "block_mean"],
    "labels": ["label"],
    "patches": ["cut", "read_index", "export", "import_patches", "Store"],
    "splits": ["split_by_block"],
    "sampling": ["sample", "sample_points", "count_classes", "category_weights"],
    "world.simulate": ["simulate"],
    "learn.datasets": ["Patches"],
    "learn.encoders": ["Encoder"],
    "learn.training": ["Hardware"],
    "learn.pretraining": ["pretrain", "intensity_weight", "SimMIM", "MixMAE"],
    "learn.segmentation": ["Segmenter"],
    "learn.finetuning": ["finetune"],
    "learn.evaluation": ["evaluate"],
    "learn.published": ["load_encoder", "load_model", "import_weights"],
    "learn.inference": ["predict"],
    "learn.reports": ["mosaic", "estimate_areas", "describe_map"],
    "learn.baselines": ["baselines", "table1"],
    "maps": ["show_backscatter", "show_classes", "show_legend", "web_map"],
    "cli": ["run"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_ELSEWHERE = {"split_by_block": "by_block"}  # what a name is called where it lives

__all__ = ["InputError", *_HOME]


class InputError(ValueError):
    """Input that cannot be used. The message names it, says what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        # A loader's worker process sends its error home as the text of a traceback: keep its end.
        super().__init__(message.rpartition("sartutorial.InputError: ")[2].rstrip())


def check_words(**said: tuple[str, Any]) -> None:
    """Raise InputError unless each parameter's value is one of the words of its kind, a Literal."""
    for name, (value, kind) in said.items():
        if value not in get_args(kind):
            raise InputError(f"{name} {value}: must be one of {', '.join(get_args(kind))}")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sartutorial' has no attribute '{name}'")
    home = import_module(f"sartutorial.{_HOME[name]}")
    return globals().setdefault(name, getattr(home, _ELSEWHERE.get(name, name)))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


_asked: list[int] = []  # each Ctrl-C of a command: a library may swallow what is raised


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not within an import or while what an error left is closed."""
    _asked.append(number)
    error, within = sys.exc_info()[1], frame
    if isinstance(error, KeyboardInterrupt):  # of somebody who is impatient
        return
    while within and not within.f_code.co_filename.startswith("<frozen importlib"):
        within = within.f_back
    if not (within or error):  # or C++ could not unwind it, or a thread still reads what is closed
        raise KeyboardInterrupt
    again = Timer(0.05, signal.pthread_kill, [get_ident(), number])  # which wakes a wait
    again.daemon = True  # no reason to wait at the end
    again.start()


def _main() -> None:
    """The command ``sartutorial``. It imports its libraries here, so Ctrl-C is one line at any time."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup` ignores it
            signal.signal(signal.SIGINT, _interrupt)
        import_module("sartutorial.cli").main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # done: what is left is taking Python down
        return
    except KeyboardInterrupt:
        # Not ended here: what its traceback holds open is closed while Python is whole.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = "sartutorial: interrupted; run it again, and it goes on where it stopped"
    print(said, file=sys.stderr)
    sys.exit(130)
