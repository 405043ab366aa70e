"""Memory options: each does what it says to one live model, and to no other."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.memory import ATTENTIONS
from likeness.pipelines.spec import MemoryOptions, PipelineSpec
from safetensors.torch import load_file, save_file

SAMPLING = Sampling("a cat", steps=2, seed=3, width=64, height=64)


@pytest.fixture(scope="module")
def cache():
    return Pipelines()


def picture(cache, base):
    return generate(cache, PipelineSpec(base), SAMPLING)[0]


def bits(cache, base):
    with cache.open(base) as live:
        return {
            f"{name}.{path}": tensor.clone()
            for name, module in live.pipeline.components.items()
            if hasattr(module, "state_dict")
            for path, tensor in module.state_dict().items()
        }


@pytest.mark.parametrize(
    "option",
    [
        {"offload": "model"},
        {"offload": "group"},
        {"vae_tiling": True},
        {"vae_slicing": True},
        {"attention": "native"},
        {"fp8": True},
    ],
    ids=str,
)
def test_no_option_leaks_to_another_model(cache, tiny_models, option):
    folder = tiny_models("flux")
    plain = base_model(folder)
    before, weights = picture(cache, plain).tobytes(), bits(cache, plain)
    special = base_model(folder, memory=MemoryOptions(**option))
    drawn = picture(cache, special).tobytes()
    assert drawn == picture(cache, special).tobytes()
    # Tiles of 64 pixels or less are one tile, one picture is one slice, the CPU has no offload.
    assert (drawn == before) == (option != {"fp8": True})
    assert picture(cache, plain).tobytes() == before
    after = bits(cache, plain)
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    with cache.open(plain) as one, cache.open(special) as other:
        assert one.pipeline is not other.pipeline
        assert not one.pipeline.vae.use_tiling and not one.pipeline.vae.use_slicing
        assert other.pipeline.vae.use_tiling == option.get("vae_tiling", False)
        assert other.pipeline.vae.use_slicing == option.get("vae_slicing", False)


def test_fp8_halves_the_denoiser_and_nothing_else(cache, tiny_models):
    folder = tiny_models("flux")
    plain, full = base_model(folder, dtype="bfloat16"), base_model(folder)
    small = base_model(folder, dtype="bfloat16", memory=MemoryOptions(fp8=True))
    with cache.open(plain) as one, cache.open(full) as exact, cache.open(small) as other:
        assert other.size_bytes < one.size_bytes
        rest = {n for n, p in other.component("transformer").named_parameters() if "norm" in n}
        for name, parameter in other.component("transformer").named_parameters():
            # Rounded once, from what the file holds.
            like = exact if parameter.dtype == torch.float8_e4m3fn else one
            wanted = like.component("transformer").get_parameter(name).to(parameter.dtype)
            assert torch.equal(parameter.float(), wanted.float())
        kinds = [p.dtype for p in other.component("transformer").parameters()]
        assert kinds.count(torch.float8_e4m3fn) > len(kinds) / 2
        assert all(
            other.component("transformer").get_parameter(name).dtype == torch.bfloat16
            for name in rest
        )
        assert other.component("vae").dtype == torch.bfloat16
        assert other.pipeline.transformer.dtype == torch.bfloat16, "what it computes in"


def test_a_float8_file_rests_in_the_file(tiny_models, tmp_path):
    """With fp8 the weights are never there in the computing type, so a small GPU can hold them."""
    from likeness.pipelines.tensor_file import is_mapped

    folder = tiny_models("flux")
    tensors = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    path = tmp_path / "denoiser.safetensors"
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in tensors.items()}, path)
    base = base_model(
        path,
        config=str(folder),
        parts={name: folder / name for name in ("text_encoder", "text_encoder_2", "vae")},
        memory=MemoryOptions(fp8=True),
    )
    with Pipelines().open(base) as live:
        eight = [
            parameter
            for parameter in live.component("transformer").parameters()
            if parameter.dtype == torch.float8_e4m3fn
        ]
        assert len(eight) > 20
        assert all(map(is_mapped, eight))


def test_attention_backends_are_diffusers_own(cache, tiny_models):
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    assert set(ATTENTIONS) - {"auto"} <= {each.value for each in AttentionBackendName}
    active = _AttentionBackendRegistry.get_active_backend()[0]
    folder = tiny_models("flux")
    other = base_model(folder, memory=MemoryOptions(attention="_native_math"))
    with cache.open(other) as live, cache.open(base_model(folder)) as plain:
        chosen = {each.processor._attention_backend for each in _attentions(live)}
        assert chosen == {"_native_math"}
        assert {each.processor._attention_backend for each in _attentions(plain)} == {None}
    assert _AttentionBackendRegistry.get_active_backend()[0] == active


def _attentions(live):
    modules = live.component(live.family.denoiser.attribute).modules()
    return [module for module in modules if hasattr(module, "processor")]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flux", {"attention": "sage"}, "install sageattention or use 'auto'"),
        ("flux", {"attention": "magic"}, "attention 'magic' is unknown; choose one of auto, nat"),
        ("flux", {"attention": "sage_hub"}, "attention 'sage_hub' is unknown"),
        ("stable-diffusion", {"attention": "native"}, "no choice of backends for UNet2DCond"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_stays(tiny_models, name, options, message):
    cache = Pipelines()
    base = base_model(tiny_models(name), memory=MemoryOptions(**options))
    with pytest.raises(ValueError, match=message), cache.open(base):
        pass
    assert cache.bytes_held == 0
    with cache.open(base_model(tiny_models(name))):
        pass


@pytest.mark.parametrize(("name", "blocks"), [("flux", True), ("sd3", False)])
def test_compile_covers_the_repeated_blocks_or_the_whole(cache, tiny_models, name, blocks):
    folder = tiny_models(name)
    base = base_model(folder, memory=MemoryOptions(compile=True))
    with cache.open(base) as live, cache.open(base_model(folder)) as plain:
        denoiser = live.component("transformer")
        compiled = [m for m in denoiser.modules() if m._compiled_call_impl is not None]
        assert compiled
        assert (denoiser in compiled) == (not blocks)
        others = plain.component("transformer").modules()
        assert all(module._compiled_call_impl is None for module in others)
    before = picture(cache, base_model(folder)).tobytes()
    with torch.compiler.set_stance("force_eager"):  # the compiler itself is torch's business
        assert picture(cache, base).tobytes() == before


def test_compile_without_a_compiler_is_refused_before_loading(tiny_models, monkeypatch):
    monkeypatch.setenv("PATH", "")
    cache = Pipelines()
    base = base_model(tiny_models("flux"), memory=MemoryOptions(compile=True))
    with pytest.raises(ValueError, match=r"compile needs a C\+\+ compiler"), cache.open(base):
        pass
    assert cache.loads == 0
