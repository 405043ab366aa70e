"""One component of a pipeline from its configuration and its tensors, without a second copy.

The module is made without memory and then pointed at the tensors: views of the file where that has
the wanted type, else copies made one at a time, while the file's pages are given back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .tensor_file import release_pages

if TYPE_CHECKING:
    import torch

    from ..families import Family
    from .sources import Weights

_LIBRARIES = ("diffusers", "transformers")
_SHOWN = 3
"""How many names of tensors a message gives."""


def build(
    component: str,
    kind: tuple[str, str],
    config: Mapping[str, Any],
    weights: Weights,
    family: Family,
    dtype: torch.dtype,
    fp8: bool = False,
) -> torch.nn.Module:
    """The component on the CPU, in eval mode and frozen, its floating-point weights in `dtype`.

    `kind`: library and class. `fp8`: most weights rest in float8_e4m3 and are cast for each layer,
    as diffusers' layer-wise casting chooses them.

    Raises:
        ValueError: the tensors do not fit; counts them and names some.
    """
    module = _empty(kind, config, dtype)
    _set_types(module, dtype)
    if fp8:
        _rest_in_float8(module, dtype)
    tensors = _named_for(component, module, config, weights, family)
    _fill(module, tensors, f"{component} in {weights.where}")
    return module.eval().requires_grad_(False)


def build_from(
    kind: tuple[str, str],
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    where: str,
    dtype: torch.dtype,
) -> torch.nn.Module:
    """As `build`, from tensors that have the module's names already. `where` they come from, for
    messages.

    Raises:
        ValueError: the tensors do not fit; counts them and names some.
    """
    module = _empty(kind, config, dtype)
    _set_types(module, dtype)
    _fill(module, dict(tensors), where)
    return module.eval().requires_grad_(False)


def library_class(kind: tuple[str, str]) -> Any:
    """The class behind a `model_index.json` entry.

    Raises:
        ValueError: it is in a library that Likeness does not load code from, or not in this one.
    """
    import importlib

    library, name = kind
    if library not in _LIBRARIES:
        raise ValueError(
            f"the model wants {name} of {library!r}, code that Likeness does not load; "
            f"it loads classes of {' and '.join(_LIBRARIES)}"
        )
    found = getattr(importlib.import_module(library), name, None)
    if found is None:
        raise ValueError(
            f"the installed {library} has no {name}; update it with pip install -U {library}"
        )
    return found


def _empty(kind: tuple[str, str], config: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """The module with parameters that have no memory, and real buffers."""
    from accelerate import init_empty_weights

    cls = library_class(kind)
    if config.get("quantization_config"):
        raise ValueError(
            f"this {kind[1]} is stored in a compressed form ({config['quantization_config']}) that "
            "Likeness cannot read; use a copy in float16, bfloat16 or float32"
        )
    with init_empty_weights(include_buffers=False):
        if kind[0] == "diffusers":
            with _default_dtype(dtype):
                return cls.from_config(dict(config))
        from transformers.initialization import no_init_weights

        with no_init_weights():  # a third of the time, for values that nobody will see
            module = cls._from_config(cls.config_class.from_dict(dict(config)), dtype=dtype)
    module.tie_weights()
    return module


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _set_types(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Floating-point tensors in `dtype`, but for those that the libraries keep in float32 beside a
    smaller one, such as T5's `wo`.
    """
    import torch

    kept = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16 or not hasattr(module, "_keep_in_fp32_modules_strict"):
        kept |= set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, tensor in module.state_dict(keep_vars=True).items():
        wanted = torch.float32 if kept & set(name.split(".")) else dtype
        if tensor.is_floating_point() and tensor.dtype != wanted:
            tensor.data = tensor.data.to(wanted)


def _rest_in_float8(module: Any, dtype: torch.dtype) -> None:
    import torch

    if not hasattr(module, "enable_layerwise_casting"):
        raise ValueError(f"{type(module).__name__} cannot rest in float8; switch fp8 off")
    module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def _named_for(
    component: str,
    module: torch.nn.Module,
    config: Mapping[str, Any],
    weights: Weights,
    family: Family,
) -> dict[str, torch.Tensor]:
    """The component's tensors under our module's names."""
    tensors = weights.tensors()
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        try:
            tensors = dict(family.convert(component, tensors, config))
        except (KeyError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{weights.where} does not hold the {component} of a {family.title} model: "
                f"{type(error).__name__} {error}"
            ) from error
        fix = getattr(module, "_fix_state_dict_keys_on_load", None)
        if fix is not None:
            fix(tensors)  # diffusers' own: attention of early VAEs was named differently
    return {
        name: tensor
        for name, tensor in tensors.items()
        # Old files bring these numbers; the modules count for themselves.
        if name in expected or not name.endswith("position_ids")
    }


def _fill(module: torch.nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Point the module at `tensors`, each in the type that the module asks for; empties `tensors`.

    A weight with several names (T5's `shared`) is one tensor afterwards.
    """

    expected = module.state_dict(keep_vars=True)
    shared: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        shared.setdefault(id(tensor), []).append(name)
    _check(module, expected, list(shared.values()), tensors, where)
    values: dict[str, torch.Tensor] = {}
    for names in shared.values():
        present = next(name for name in names if name in tensors)
        value = _placed(tensors[present], expected[present])
        for name in names:
            tensors.pop(name, None)
            values[name] = value
    module.load_state_dict(values, strict=True, assign=True)
    for first, *others in shared.values():
        for name in others:
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, _at(module, first))


def _placed(source: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    dtype = like.dtype if like.is_floating_point() else source.dtype
    value = source.to("cpu", dtype).contiguous()
    if value.data_ptr() != source.data_ptr():
        release_pages(source)
    return value


def _at(module: torch.nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf)


def _check(
    module: torch.nn.Module,
    expected: Mapping[str, torch.Tensor],
    shared: list[list[str]],
    tensors: Mapping[str, torch.Tensor],
    where: str,
) -> None:
    missing = [names[0] for names in shared if not any(name in tensors for name in names)]
    unexpected = [name for name in tensors if name not in expected]
    reshaped = [
        f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} tensors are {what} ({_some(names)})"
        for what, names in (
            ("missing", missing),
            ("of another shape", reshaped),
            ("unexpected", unexpected),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"{where} does not fit {type(module).__name__}: {'; '.join(problems)}; "
            "choose the file that belongs to this model"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."
