"""What only chapters use: the chain on simulated data, so that any can be opened first; and shows.

Each step makes what it needs, once, in ``profiles.data_dir()``; the chapters show the same calls.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartutorial import profiles
from sartutorial.downsampling import downsample
from sartutorial.labels import label
from sartutorial.patches import cut as cut_patches
from sartutorial.profiles import data_dir
from sartutorial.sampling import sample
from sartutorial.world.simulate import simulate

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown
    from matplotlib.figure import Figure
    from torch import Tensor

    from sartutorial.learn.pretraining import Method


def world() -> Path:
    """The folder of the simulated world: scenes, lulc, dem, truth (chapter 01)."""
    _announce(data_dir() / "lulc", "making the simulated world (the laptop's takes two minutes)")
    return simulate(data_dir())


def scenes() -> list[Path]:
    """The simulated scenes at full resolution (chapter 01)."""
    return sorted((world() / "scenes").glob("*.tif"))


def tiles() -> list[Path]:
    """The simulated land-cover tiles (chapter 01)."""
    return sorted((world() / "lulc").glob("*.tif"))


def halved() -> list[Path]:
    """The scenes at half resolution (chapter 02)."""
    full, out = scenes(), data_dir() / "half"
    downsample(full, out)
    return [out / scene.name for scene in full]


def labelled() -> Path:
    """The folder of label rasters (chapter 03)."""
    label(halved(), tiles(), data_dir() / "labels")
    return data_dir() / "labels"


def cut() -> Path:
    """The folder of patches and their index (chapter 04)."""
    cut_patches(halved(), labelled(), data_dir() / "patches")
    return data_dir() / "patches"


def sampled() -> Path:
    """The same folder, with selection and split in the index (chapter 05)."""
    sample(cut(), tiles())
    return data_dir() / "patches"


def encoder(method: Method = "sar-w-simmim") -> Path:
    """A pretrained encoder (chapter 06); weights from its training are kept for ``epochs``."""
    from sartutorial.learn import pretraining

    patches, out = sampled(), data_dir() / "encoders" / method
    keep = _keeper(out / "epochs", profiles.get().pretrain_epochs)
    _announce(out / "encoder.safetensors", f"pretraining with {method} (some minutes)")
    return pretraining.pretrain(patches, out, method=method, on_epoch=keep)


def model(encoder: str | None = "reference") -> Path:
    """A model fine-tuned for minutes (chapter 07); ``encoder=None`` starts from random weights.

    Weights from its training are kept for ``epochs``.
    """
    from sartutorial.learn import finetuning

    patches, out = sampled(), data_dir() / "models" / (encoder or "scratch")
    keep = _keeper(out / "epochs", profiles.get().finetune_epochs)
    _announce(out / "model.safetensors", f"fine-tuning from {encoder or 'scratch'} (some minutes)")
    return finetuning.finetune(patches, out, encoder=encoder, on_epoch=keep)


def _keeper(folder: Path, number: int) -> Callable[[Any, list[float]], None]:
    """A hook that keeps a model's weights after its epochs, of ``number``: twenty files at most."""
    every = max(number // 10, 1)

    def keep(model: Any, history: list[float]) -> None:
        from sartutorial.learn import checkpoints

        if len(history) % every == 0:
            about = {"encoder": model.encoder.config._asdict(), "history": history}
            checkpoints.save(model, folder / f"{len(history):04}.safetensors", about)

    return keep


def epochs(file: Path) -> dict[int, dict[str, Tensor]]:
    """The weights of ``encoder`` or ``model`` by the number of epochs of training, the last always.

    What another run left in the folder is passed over.
    """
    from sartutorial.learn import checkpoints

    kept = {}
    for path in [*(file.parent / "epochs").glob("*.json"), file]:  # .json: its weights are whole
        state, description = checkpoints.load(path.with_suffix(".safetensors"))
        losses = description["history"]  # which tell one run from another
        kept[len(losses)] = losses, state
    return {n: kept[n][1] for n in sorted(kept) if kept[n][0] == losses[:n]}


def _announce(product: Path, doing: str) -> None:
    if not product.exists():
        print(f"{doing} ...", flush=True)


def show_source(thing: Callable[..., Any] | type) -> Markdown:
    """The package's own source of a function or class, as a notebook shows it."""
    from IPython.display import Markdown

    return Markdown(f"```python\n{inspect.getsource(thing)}```")  # type: ignore[no-untyped-call]


def picture(fig: Figure) -> str:
    """A figure as a PNG data address, for pages to embed; the figure is closed."""
    import matplotlib.pyplot as plt
    from IPython.core.pylabtools import print_figure

    png = print_figure(fig, dpi=70, bbox_inches=None, base64=True)  # type: ignore[no-untyped-call]
    plt.close(fig)
    return f"data:image/png;base64,{png}"


def slider(
    figures: Iterable[tuple[str, Figure]], name: str, alt: str, *, start: int | None = None
) -> HTML:
    """A slider over labelled figures that is alive on a page without a kernel or a network.

    ``name`` says what the labels are values of, ``alt`` what the figures show. ``start`` is the
    figure shown first, the middle one if it is not given; -1 is the last. The button plays them.
    """
    from IPython.display import HTML

    frames = [[label, picture(fig)] for label, fig in figures]
    start = (len(frames) // 2 if start is None else start) % len(frames)
    return HTML(f"""<div class="frames">
<img src="{frames[start][1]}" alt="{alt}" style="display:block; max-width:100%">
<label>{name} = <output>{frames[start][0]}</output>
<input type="range" min="0" max="{len(frames) - 1}" value="{start}" style="width:60%"></label>
<button type="button" aria-label="play">▶</button>
<script>{{
const box = document.currentScript.parentElement, frames = {json.dumps(frames)};
let timer, input = box.querySelector("input");
const show = n => {{
  input.value = n;
  [box.querySelector("output").value, box.querySelector("img").src] = frames[n];
  if (n == input.max) clearInterval(timer);
}};
input.oninput = () => {{ clearInterval(timer); show(input.value); }};
box.querySelector("button").onclick = () => {{
  clearInterval(timer);
  timer = setInterval(() => show(+input.value + 1), 800);
  show(0);
}};
}}</script></div>""")  # type: ignore[no-untyped-call]
