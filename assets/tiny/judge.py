"""The judge: a small network that reads off a picture what a caption would ask for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from draw import NOUNS, Picture
from palette import COLORS
from pictures import HELD_OUT, pixels, shown, signed
from scenes import SCENES
from training import note, train

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BATCH = 64
QUESTIONS: dict[str, tuple] = {
    "noun": NOUNS,
    "color": tuple(COLORS),
    "scene": SCENES,
    "ground": tuple(COLORS),  # of plain backgrounds
    "body": ("round", "tall", "wide"),  # these four: of monsters
    "eyes": (1, 2, 3),
    "top": ("horns", "ears", "antennae", "nothing"),
    "mouth": ("smile", "teeth", "round"),
}


def answers(picture: Picture) -> dict[str, object]:
    """The right answers; a question that makes no sense for this picture is left out."""
    right: dict[str, object] = {
        "noun": picture.noun,
        "color": picture.color,
        "scene": picture.scene,
    }
    if picture.scene == "plain":
        right["ground"] = picture.ground
    if picture.look:
        right |= {q: getattr(picture.look, q) for q in ("body", "eyes", "top", "mouth")}
    return right


def new_judge() -> nn.Module:
    """64x64 pictures (N, 3, 64, 64) in -1..1 to the answers' scores, all questions side by side."""
    from torch import nn

    layers: list[nn.Module] = []
    widths = (3, 24, 48, 96, 128)
    for before, after in pairwise(widths):
        for channels, stride in ((before, 2), (after, 1)):
            layers += [nn.Conv2d(channels, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    scores = sum(len(options) for options in QUESTIONS.values())
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(128 * 16, 192), nn.ReLU(), nn.Linear(192, scores)
    )


def split(scores: Tensor) -> dict[str, Tensor]:
    """The scores of each question."""
    parts = scores.split([len(options) for options in QUESTIONS.values()], dim=1)
    return dict(zip(QUESTIONS, parts, strict=True))


def right_indices(pictures: list[Picture]) -> Tensor:
    """(N, questions); -100 where a question makes no sense."""
    import torch

    found = [answers(p) for p in pictures]
    rows = [
        [options.index(a[q]) if q in a else -100 for q, options in QUESTIONS.items()] for a in found
    ]
    return torch.tensor(rows)


def train_judge(work: Path, *, steps: int = 3000, minutes: float | None = None) -> None:
    import torch
    from torch.nn import functional

    data, right = pixels(work), right_indices(shown(work))

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data) - HELD_OUT, (BATCH,), generator=generator)
        shift = tuple(torch.randint(-2, 3, (2,), generator=generator).tolist())
        real = blurred(signed(data[chosen]).roll(shift, (2, 3)), generator)
        scores = split(modules["judge"](real))
        wrong = [
            functional.cross_entropy(part, right[chosen, i], ignore_index=-100, reduction="sum")
            / BATCH
            for i, part in enumerate(scores.values())
        ]
        return torch.stack(wrong).sum()

    modules = torch.nn.ModuleDict({"judge": new_judge()})
    modules.train()
    judge = train(work, "judge", modules, loss, steps=steps, rate=2e-3, minutes=minutes)["judge"]
    refresh_statistics(judge, data)
    torch.save(judge.state_dict(), work / "judge_weights.pt")
    with torch.no_grad():
        scores = split(judge(signed(data[-HELD_OUT:])))
    held_out = right[-HELD_OUT:]
    correct = {
        q: (part.argmax(1) == held_out[:, i])[held_out[:, i] >= 0].float().mean().item()
        for i, (q, part) in enumerate(scores.items())
    }
    note(work, "judge", held_out_accuracy={q: round(v, 3) for q, v in correct.items()})


def blurred(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Softened by a random amount and a little noisy: as a decoder's pictures are."""
    import torch
    from torch.nn import functional

    amount = torch.rand(len(batch), 1, 1, 1, generator=generator)
    soft = functional.avg_pool2d(functional.pad(batch, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = torch.randn(batch.shape, generator=generator)
    return batch + 0.8 * amount * (soft - batch) + 0.06 * amount * noise


def refresh_statistics(judge: nn.Module, data: Tensor) -> None:
    """Batch statistics for the averaged weights."""
    import torch
    from torch import nn

    norms = [m for m in judge.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain average
    judge.train()
    with torch.no_grad():
        for part in data[:2000].split(100):
            judge(blurred(signed(part), torch.Generator().manual_seed(0)))
    judge.eval()


def load_judge(work: Path) -> nn.Module:
    import torch

    judge = new_judge()
    judge.load_state_dict(torch.load(work / "judge_weights.pt", weights_only=True))
    return judge.eval()
