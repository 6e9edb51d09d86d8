"""Training in torch: masks, schedules and objectives, the loop, a classifier's stages, fake-quantization."""

from __future__ import annotations

from sparsegate.training.classifier import (
    SCHEDULES,
    accuracy,
    lstm,
    prune_and_finetune,
    prune_and_fit,
    quantize_and_finetune,
    train_float,
)
from sparsegate.training.ensemble import Ensemble
from sparsegate.training.fake_quant import FakeQuant
from sparsegate.training.loop import Progress, fit
from sparsegate.training.masks import Mask, Pruner, attach
from sparsegate.training.objective import last_class, match, step_class, step_value
from sparsegate.training.recipe import FLOAT, PRUNE, QUANTIZE, Recipe
from sparsegate.training.sampling import sample
from sparsegate.training.schedule import Annealed, Cubic, OneShot
from sparsegate.training.trainable import Trainable

__all__ = [
    "FLOAT",
    "PRUNE",
    "QUANTIZE",
    "SCHEDULES",
    "Annealed",
    "Cubic",
    "Ensemble",
    "FakeQuant",
    "Mask",
    "OneShot",
    "Progress",
    "Pruner",
    "Recipe",
    "Trainable",
    "accuracy",
    "attach",
    "fit",
    "last_class",
    "lstm",
    "match",
    "prune_and_finetune",
    "prune_and_fit",
    "quantize_and_finetune",
    "sample",
    "step_class",
    "step_value",
    "train_float",
]
