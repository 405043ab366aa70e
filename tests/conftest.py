"""What most tests need: the bundled tiny base, one cache of live weights, and quiet threads."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from likeness.cli import share_the_machine

from .tiny_models import tiny_models  # noqa: F401 - a fixture for all

# As the command line does, before anything loads torch: tests share their machine.
share_the_machine()
if "PYTEST_XDIST_WORKER" in os.environ:  # several of them already use all cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What runs in the background of a shell, or under nohup, ignores these, and so would what it
# starts; some tests send them.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

ROOT = Path(__file__).parent.parent
TINY = ROOT / "assets" / "tiny" / "base"
SUBJECT = ROOT / "assets" / "tiny" / "subject"


@pytest.fixture(scope="session")
def tiny_base():
    from likeness.pipelines.base_models import base_model

    return base_model(TINY)


@pytest.fixture(scope="session")
def pipelines():
    """Shared by the whole session: tests that change what is live must put it back, which is the
    point.
    """
    from likeness.pipelines.loading import Pipelines

    return Pipelines("cpu")


@pytest.fixture(scope="session")
def make_lora(tiny_base, pipelines, tmp_path_factory):
    """A function that writes a LoRA with random weights for the tiny base and describes it."""
    import torch
    from likeness.pipelines.lora.files import LoraPair, describe_lora, write_lora

    folder = tmp_path_factory.mktemp("loras")

    def make(
        seed: int = 0, rank: int = 4, layout: str = "kohya", strength: float = 0.05, **metadata
    ):
        generator = torch.Generator().manual_seed(seed)
        weights = {}
        with pipelines.open(tiny_base) as live:
            for component in (live.family.denoiser, *live.family.text_encoders):
                for module, shape in _targets(live, component):
                    down = torch.randn(rank, *shape[1:], generator=generator)
                    up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
                    pair = LoraPair(down, up * strength, alpha=rank / 2)
                    weights.setdefault(component.attribute, {})[module] = pair
            path = folder / f"random-{seed}-{rank}-{layout}.safetensors"
            write_lora(path, weights, live.family, metadata, layout)
        return describe_lora(path)

    return make


def _targets(live, component):
    import re

    patterns = [pattern for _, pattern in component.targets]
    for path, module in live.component(component.attribute).named_modules():
        if any(re.fullmatch(pattern, path) for pattern in patterns):
            yield path, tuple(module.weight.shape)
