"""Table 1 of the paper, on our data: five training strategies, several seeds, mIoU and mAcc."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sartutorial import checkpoints, evaluation, finetuning, pretraining
from sartutorial.profiles import Profile, current


class Strategy(NamedTuple):
    """A row of Table 1: how the encoder starts, and the paper's figures (one run each)."""

    name: str
    kind: Literal["simmim", "mixmae"]
    method: pretraining.Method | None
    paper_macc: float
    paper_miou: float


STRATEGIES = (
    Strategy("MixMAE baseline (no pretraining)", "mixmae", None, 0.4223, 0.3340),
    Strategy("SAR-W-MixMAE (fine-tuned)", "mixmae", "sar-w-mixmae", 0.5806, 0.4734),
    Strategy("SimMIM baseline (no pretraining)", "simmim", None, 0.5292, 0.4258),
    Strategy("SimMIM (fine-tuned)", "simmim", "simmim", 0.6064, 0.4894),
    Strategy("SAR-W-SimMIM (fine-tuned)", "simmim", "sar-w-simmim", 0.6073, 0.4898),
)


def table1(
    folder: str | Path,
    out: str | Path,
    *,
    seeds: int = 3,
    profile: Profile | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Pretrain, fine-tune and test every strategy for ``seeds`` seeds; written to ``out/table1.json``.

    Each row holds the test mIoU and mAcc of every seed with their mean and standard deviation, and
    the paper's figures beside them. Runs that are done are not run again.
    """
    out, profile = Path(out), profile or current()
    rows = []
    for s in STRATEGIES:
        runs = []
        for seed in range(seeds):
            where = out / (s.method or f"{s.kind}-scratch") / f"seed{seed}"
            encoder = s.method and pretraining.pretrain(
                folder, where / "pretrain", method=s.method, seed=seed, profile=profile,
                progress=progress,
            )  # fmt: skip
            model = finetuning.finetune(
                folder, where / "finetune", encoder=encoder, kind=s.kind, seed=seed,
                profile=profile, progress=progress,
            )  # fmt: skip
            runs.append(evaluation.evaluate(folder, model, out=where / "test.json"))
            print(f"{s.name}, seed {seed}: mIoU {runs[-1]['miou']:.4f}", flush=True)
        row = s._asdict()
        for metric in ("miou", "macc"):
            values = [run[metric] for run in runs]
            spread = float(np.std(values, ddof=1)) if seeds > 1 else None
            row |= {
                metric: values,
                f"{metric}_mean": float(np.mean(values)),
                f"{metric}_std": spread,
            }
        rows.append(row)
    result = {"rows": rows, "profile": profile.name, "provenance": checkpoints.provenance()}
    checkpoints.write_json(result, out / "table1.json")
    return result
