"""Fine-tuning losses (paper section 3.2): Dice and Focal, over the labelled pixels of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sartutorial.lulc import IGNORE_INDEX

DICE_WEIGHT, FOCAL_WEIGHT = 0.32, 0.57  # paper; a third number after these is lost in our copy
GAMMA, ALPHA = 2.0, 0.5  # the code's defaults


def labelled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and classes (N,) of the labelled pixels of (B, K, H, W) and (B, H, W)."""
    keep = target != IGNORE_INDEX
    return logits.permute(0, 2, 3, 1)[keep].float(), target[keep]


def dice(logits: Tensor, target: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Dice loss of logits (N, K) and classes (N,): 1 - (2I + eps) / (I + U + eps), mean over classes.

    I = sum min(p, g) and U = sum max(p, g) are the paper's; the formula that joins them is lost
    there, and this identity is our reading. Classes without truth in the batch are left out (ours).
    """
    p = logits.softmax(1)
    g = F.one_hot(target, logits.shape[1]).to(p.dtype)
    intersection, union = torch.minimum(p, g).sum(0), torch.maximum(p, g).sum(0)
    loss = 1 - (2 * intersection + eps) / (intersection + union + eps)
    return loss[g.sum(0) > 0].mean()


def focal(logits: Tensor, target: Tensor, *, gamma: float = GAMMA, alpha: float = ALPHA) -> Tensor:
    """Focal loss (Lin et al. 2017) of logits (N, K): mean of -alpha (1 - p_t)^gamma log p_t."""
    log_p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    return (-alpha * (1 - log_p.exp()) ** gamma * log_p).mean()


def combined(logits: Tensor, target: Tensor) -> Tensor:
    """0.32 Dice + 0.57 Focal over the labelled pixels; logits (B, K, H, W), target (B, H, W).

    A batch without a labelled pixel gives 0, with a gradient of 0.
    """
    flat, classes = labelled(logits, target)
    if classes.numel() == 0:
        return logits.sum() * 0
    return DICE_WEIGHT * dice(flat, classes) + FOCAL_WEIGHT * focal(flat, classes)
