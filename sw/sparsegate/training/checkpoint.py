"""What an interrupted training keeps, and how the same training finds it again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegate import artefact
from sparsegate.errors import SparseGateError
from sparsegate.training.objective import Objective

CHECKPOINT = "sparsegate-training"


class Resumable(Protocol):
    """What a checkpoint keeps beside the module and its optimizer: a ``Pruner``."""

    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


IDENTIFYING = 256
"""Sequences whose loss tells one objective from another."""


def identity(
    model: nn.Module, objective: Objective, values: Tensor, lengths: NDArray[np.int64], how: str, device: torch.device
) -> str:
    """A digest of all that a training depends on: data, starting weights, recipe, and what the objective says of them.

    Off the CPU a loss is not the same to the bit twice, and counts with three digits.
    """
    cpu = device.type == "cpu"
    how += "" if cpu else f" on {device.type}"
    rows = np.linspace(0, len(values) - 1, min(len(values), IDENTIFYING)).astype(np.int64)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        before = [(buffer, buffer.clone()) for buffer in model.buffers()]
        loss = objective(model, values[rows], lengths[rows], torch.from_numpy(rows)).item()
        for buffer, value in before:  # a statistic of batches must not see this one
            buffer.copy_(value)
    said = repr(loss) if cpu else f"{loss:.3g}"
    digest = hashlib.sha256(f"{how} {said} {lengths.tolist()}".encode())
    for name, value in [("x", values), *sorted(model.state_dict().items())]:
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Kept:
    """The state of a training between two epochs, in memory and in a file."""

    def __init__(
        self,
        path: Path | str | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        rng: np.random.Generator,
        pruner: Resumable | None,
        device: torch.device,
    ) -> None:
        self.path, self.rng, self.device = None if path is None else Path(path), rng, device
        self.what = ""
        """Identity of the training."""
        self.parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
        if pruner is not None:
            self.parts["pruner"] = pruner

    def resume(self) -> int:
        """Take up what the file holds; epochs done so far."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(io.BytesIO(self.path.read_bytes()), weights_only=True, map_location="cpu")
            if state["format"] != CHECKPOINT:
                raise KeyError("format")
            if state["what"] != self.what:
                raise SparseGateError(
                    f"{self.path} is the checkpoint of another training (other data, weights, recipe, pruning, seed or device);"
                    " remove it or name another"
                )
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.rng.bit_generator.state = state["numpy"]
            torch.set_rng_state(state["torch"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], self.device)
            return int(state["epoch"])
        except SparseGateError as error:
            said = str(error)
            raise SparseGateError(said if str(self.path) in said else f"{self.path}: {said}") from error
        except OSError as error:
            raise SparseGateError(f"cannot read {self.path}: {error.strerror or error}") from error
        except Exception as error:  # torch raises many kinds for damaged files
            raise SparseGateError(f"{self.path} is not a readable checkpoint of a training: {error}") from error

    def save(self, epoch: int) -> None:
        if self.path is None:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"format": CHECKPOINT, "what": self.what, "epoch": epoch}
        state |= {"numpy": self.rng.bit_generator.state, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        with artefact.writing(self.path) as temporary:
            torch.save(state, temporary)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
