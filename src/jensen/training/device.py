"""Where and in what arithmetic training runs. The only user of accelerate.

bfloat16 is used where the processor multiplies it natively (then about twice as fast here), float32 elsewhere; this
follows from the processor's flags alone, so that the same machine always does the same.
"""

import contextlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from jensen.errors import InputError


@dataclass(frozen=True)
class Precision:
    """The arithmetic of training: "float32" or "bfloat16" (autocast), and why."""

    name: str
    reason: str

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The context in which the network runs."""
        if self.name == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


@cache
def accelerator() -> Any:
    """The one Accelerator of this process; always made with the same arguments."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision="no")


def device() -> torch.device:
    """The device models are trained on."""
    found = accelerator().device
    assert isinstance(found, torch.device)
    return found


def precision(wanted: str = "auto") -> Precision:
    """The training precision: as asked for, or bfloat16 where the hardware has instructions for it."""
    if wanted in ("float32", "bfloat16"):
        return Precision(wanted, "as asked for")
    if wanted != "auto":
        raise InputError(f"precision must be auto, float32 or bfloat16, got {wanted!r}")
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if native:
        return Precision("bfloat16", "the processor has bfloat16 instructions")
    return Precision("float32", "the processor has no bfloat16 instructions")
