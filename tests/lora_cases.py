"""One layer in every format that files come in, with the change that it means, computed in float64
by formulas of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

Parts = dict[str, torch.Tensor]
LINEAR, CONV, POINT, NORM = (12, 8), (12, 8, 3, 3), (12, 8, 1, 1), (12,)


@dataclass(frozen=True)
class Case:
    """`parts`: what follows the layer's name in a file → tensor. `expected`: W0 → ΔW in float64.
    `comfyui`: False where ComfyUI's loader computes something else, and why stands beside it.
    """

    name: str
    shape: tuple[int, ...]
    parts: Callable[[torch.Generator], Parts]
    expected: Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]
    comfyui: bool = True


def numbers(generator: torch.Generator, **shapes: tuple[int, ...]) -> Parts:
    return {
        name.replace("__", "."): torch.randn(*shape, generator=generator) * 0.3
        for name, shape in shapes.items()
    }


def lora_parts(g, shape, rank=4, alpha: float | None = 2.0):
    parts = numbers(
        g,
        lora_down__weight=(rank, *shape[1:]),
        lora_up__weight=(shape[0], rank, *[1] * (len(shape) - 2)),
    )
    return parts if alpha is None else parts | {"alpha": torch.tensor(alpha)}


def rows(shape):
    """The shape of a weight with its inputs in one dimension."""
    return shape[0], int(np.prod(shape[1:]))


def lora(p, w, scale=None):
    up, down = p["lora_up.weight"], p["lora_down.weight"]
    rank = down.shape[0]
    scale = float(p.get("alpha", rank)) / rank if scale is None else scale
    return scale * (up.reshape(len(up), rank) @ down.reshape(rank, -1)).reshape(w.shape)


def tucker(p, w):
    up, down, mid = (p[f"lora_{n}.weight"] for n in ("up", "down", "mid"))
    flat = np.einsum("ou,udhw,di->oihw", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    return flat * float(p["alpha"]) / len(down)


def loha(p, w):
    halves = [p[f"hada_w{n}_a"] @ p[f"hada_w{n}_b"] for n in (1, 2)]
    return (halves[0] * halves[1]).reshape(w.shape) * scale_of(p, p["hada_w1_b"].shape[0])


def loha_tucker(p, w):
    halves = [
        np.einsum("abhw,ao,bi->oihw", p[f"hada_t{n}"], p[f"hada_w{n}_a"], p[f"hada_w{n}_b"])
        for n in (1, 2)
    ]
    return halves[0] * halves[1] * scale_of(p, p["hada_w1_b"].shape[0])


def scale_of(p, rank):
    return float(p["alpha"]) / rank if "alpha" in p else 1.0


def lokr(p, w):
    one = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    if "lokr_w2" in p:
        two = p["lokr_w2"]
    elif "lokr_t2" in p:
        two = np.einsum("abhw,ao,bi->oihw", p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"])
    else:
        two = p["lokr_w2_a"] @ p["lokr_w2_b"]
    if two.ndim == 4:
        whole = np.einsum("ac,bdhw->abcdhw", one, two)
        whole = whole.reshape(len(one) * len(two), one.shape[1] * two.shape[1], *two.shape[2:])
    else:
        whole = np.kron(one, two)
    products = [p[n] for n in ("lokr_w2_b", "lokr_w1_b") if n in p]
    return whole.reshape(w.shape) * (scale_of(p, len(products[0])) if products else 1.0)


def dora(method, axis):
    """`axis`: 1 for norms over input columns of W0 + V, 0 for those of W0's rows."""

    def expected(p, w):
        changed = w + method(p, w)
        based = changed if axis else w
        dims = tuple(d for d in range(w.ndim) if d != axis)
        norm = np.sqrt((based**2).sum(axis=dims, keepdims=True)) + np.finfo(np.float32).eps
        return changed * (p["dora_scale"].reshape(norm.shape) / norm) - w

    return expected


def magnitudes(g, shape, axis):
    size = [1] * len(shape)
    size[axis] = shape[axis]
    return {"dora_scale": torch.rand(*size, generator=g) + 0.5}


def glora(p, w):
    flat = w.reshape(len(w), -1)
    change = flat @ p["a1.weight"] @ p["a2.weight"] + p["b1.weight"] @ p["b2.weight"]
    return change.reshape(w.shape) * float(p["alpha"]) / p["a1.weight"].shape[1]


def oft(p, w):
    result = []
    for block, part in zip(p["oft_blocks"], np.split(w, len(p["oft_blocks"])), strict=True):
        skew = block - block.T
        one = np.eye(len(block))
        turn = (one + skew) @ np.linalg.inv(one - skew)
        result.append(np.einsum("nm,n...->m...", turn, part))
    return np.concatenate(result) - w


def lora_case(name, shape, **options):
    return Case(name, shape, lambda g: lora_parts(g, shape, **options), lora)


def dora_case(name, shape, axis, method=lora, parts=lora_parts):
    return Case(
        name, shape, lambda g: parts(g, shape) | magnitudes(g, shape, axis), dora(method, axis)
    )


def loha_parts(g, shape, rank=3):
    out, inner = rows(shape)
    sizes = {f"hada_w{n}_a": (out, rank) for n in (1, 2)}
    sizes |= {f"hada_w{n}_b": (rank, inner) for n in (1, 2)}
    return numbers(g, **sizes) | {"alpha": torch.tensor(1.5)}


def loha_tucker_parts(g):
    sizes = {f"hada_w{n}_a": (3, 12) for n in (1, 2)} | {f"hada_w{n}_b": (3, 8) for n in (1, 2)}
    sizes |= {f"hada_t{n}": (3, 3, 3, 3) for n in (1, 2)}
    return numbers(g, **sizes) | {"alpha": torch.tensor(1.5)}


def lokr_parts(alpha=1.5, **shapes):
    return lambda g: numbers(g, **shapes) | {"alpha": torch.tensor(alpha)}


def other_way(shape, stored):
    """A LoRA stored as for one kind of layer, on the other."""
    return Case(f"lora {stored} on {shape}", shape, lambda g: lora_parts(g, stored), lora)


CASES = (
    lora_case("lora", LINEAR),
    lora_case("lora without alpha", LINEAR, alpha=None),
    lora_case("lora rank 1", LINEAR, rank=1, alpha=1.0),
    lora_case("lora conv 1x1", POINT),
    lora_case("lora conv 3x3", CONV),
    other_way(LINEAR, POINT),
    other_way(POINT, LINEAR),
    Case(
        "lora tucker",
        CONV,
        lambda g: (
            numbers(
                g,
                lora_down__weight=(4, 8, 1, 1),
                lora_up__weight=(12, 4, 1, 1),
                lora_mid__weight=(4, 4, 3, 3),
            )
            | {"alpha": torch.tensor(2.0)}
        ),
        tucker,
    ),
    Case("loha", LINEAR, lambda g: loha_parts(g, LINEAR), loha),
    Case("loha conv", CONV, lambda g: loha_parts(g, CONV), loha),
    Case("loha tucker", CONV, loha_tucker_parts, loha_tucker),
    Case(
        "lokr w2 low", LINEAR, lokr_parts(lokr_w1=(3, 2), lokr_w2_a=(4, 2), lokr_w2_b=(2, 4)), lokr
    ),
    Case(
        "lokr both low",
        LINEAR,
        lokr_parts(lokr_w1_a=(3, 2), lokr_w1_b=(2, 2), lokr_w2_a=(4, 3), lokr_w2_b=(3, 4)),
        lokr,
    ),
    Case(
        "lokr w1 low", LINEAR, lokr_parts(lokr_w1_a=(3, 2), lokr_w1_b=(2, 2), lokr_w2=(4, 4)), lokr
    ),
    # Both whole: ComfyUI and LyCORIS know no alpha then.
    Case("lokr whole", LINEAR, lokr_parts(alpha=7.0, lokr_w1=(3, 2), lokr_w2=(4, 4)), lokr),
    Case("lokr conv", CONV, lokr_parts(lokr_w1=(3, 2), lokr_w2=(4, 4, 3, 3)), lokr),
    Case(
        "lokr conv flat",
        CONV,
        lokr_parts(lokr_w1=(3, 2), lokr_w2_a=(4, 2), lokr_w2_b=(2, 36)),
        lokr,
    ),
    Case(
        "lokr tucker",
        CONV,
        lokr_parts(lokr_w1=(3, 2), lokr_t2=(2, 2, 3, 3), lokr_w2_a=(2, 4), lokr_w2_b=(2, 4)),
        lokr,
        comfyui=False,  # core logs an error and leaves the layer as it was
    ),
    dora_case("dora input", LINEAR, 1),
    dora_case("dora output", LINEAR, 0),
    dora_case("dora input conv", CONV, 1),
    dora_case("dora output conv", CONV, 0),
    dora_case("loha dora input", LINEAR, 1, loha, loha_parts),
    dora_case("loha dora output", CONV, 0, loha, loha_parts),
    Case("diff", LINEAR, lambda g: numbers(g, diff=LINEAR), lambda p, w: p["diff"]),
    Case("diff conv", CONV, lambda g: numbers(g, diff=CONV), lambda p, w: p["diff"]),
    Case("norm", NORM, lambda g: numbers(g, diff=NORM), lambda p, w: p["diff"]),
    Case("w_norm", NORM, lambda g: numbers(g, w_norm=NORM), lambda p, w: p["w_norm"]),
    Case(
        "set_weight",
        LINEAR,
        lambda g: numbers(g, set_weight=LINEAR),
        lambda p, w: p["set_weight"] - w,
    ),
    Case(
        "glora",
        LINEAR,
        lambda g: (
            numbers(g, a1__weight=(8, 3), a2__weight=(3, 8), b1__weight=(12, 3), b2__weight=(3, 8))
            | {"alpha": torch.tensor(1.5)}
        ),
        glora,
    ),
    Case("oft", LINEAR, lambda g: numbers(g, oft_blocks=(3, 4, 4)), oft),
    Case("oft conv", CONV, lambda g: numbers(g, oft_blocks=(3, 4, 4)), oft),
)


def tensors_of(case: Case) -> tuple[torch.Tensor, Parts]:
    """W0 and the parts of a case, the same each time."""
    generator = torch.Generator().manual_seed(sum(case.name.encode()))
    return torch.randn(*case.shape, generator=generator), case.parts(generator)


def expected(case: Case, weight: torch.Tensor, parts: Parts) -> torch.Tensor:
    numbers64 = {name: tensor.double().numpy() for name, tensor in parts.items()}
    return torch.from_numpy(np.asarray(case.expected(numbers64, weight.double().numpy())))
