"""From patches to a model: feed, pretrain, fine-tune, score, map."""
