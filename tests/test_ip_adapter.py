"""IP-Adapters: the pixels of plain diffusers with the same adapter, pictures and scales."""

from __future__ import annotations

import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import Picture, ReferenceUse, in_order
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

from .conftest import TINY
from .ip_adapter_models import ENCODER, half, photo, picture, save, unet_adapter
from .plain_references import plain_pipeline

SETTINGS = {"steps": 3, "guidance": 3.0, "seed": 5}


@pytest.fixture(scope="module")
def cache():
    return Pipelines("cpu")


@pytest.fixture(scope="module")
def adapters(tiny_models, tmp_path_factory):
    """A function from (model, kind, seed) to the description of an adapter and its file."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {}

    def make(model="tiny", kind="base", seed=0, suffix=".safetensors", **options):
        key = (model, kind, seed, suffix)
        if key not in made:
            unet = plain_pipeline(folder_of(tiny_models, model)).unet
            path = folder / f"{'-'.join(map(str, key[:3]))}{suffix}"
            save(unet_adapter(unet, kind, seed, **options), path)
            made[key] = describe_adapter(path, ENCODER)
        return made[key]

    return make


def folder_of(tiny_models, model):
    return TINY if model == "tiny" else tiny_models(model)


def draw(cache, folder, *uses, loras=(), **settings):
    sources = {name: settings.pop(name) for name in ("image", "mask") if name in settings}
    sampling = Sampling("a red star", "blue", **{**SETTINGS, **settings})
    spec = PipelineSpec(base_model(folder), loras=loras, references=uses)
    return [image.tobytes() for image in generate(cache, spec, sampling, **sources)]


def plain(folder, adapters, images, scale, task="text", **arguments):
    """What diffusers draws. `images`: for each adapter, one picture or several."""
    pipeline = plain_pipeline(folder, task, tuple(adapter.path for adapter in adapters))
    pipeline.set_ip_adapter_scale(scale)
    count = arguments.pop("count", 1)
    steps = arguments.pop("steps", SETTINGS["steps"])
    if "ip_adapter_image_embeds" not in arguments:
        arguments["ip_adapter_image"] = images
    found = pipeline(
        prompt=["a red star"] * count,
        negative_prompt=["blue"] * count,
        num_inference_steps=steps,
        **{"guidance_scale": SETTINGS["guidance"], **arguments},
        generator=[torch.Generator().manual_seed(SETTINGS["seed"] + i) for i in range(count)],
    ).images
    return [image.tobytes() for image in found]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("tiny", "base"),
        ("tiny", "plus"),
        ("tiny", "full-face"),
        ("stable-diffusion", "base"),
        ("sdxl", "base"),
        ("sdxl", "plus"),
    ],
)
def test_the_pixels_of_plain_diffusers(cache, adapters, tiny_models, model, kind):
    folder, adapter = folder_of(tiny_models, model), adapters(model, kind)
    assert adapter.kind == kind
    ours = draw(cache, folder, ReferenceUse(adapter, (picture(1),), 0.7))
    assert ours == plain(folder, [adapter], [photo(1)], 0.7)
    assert ours != draw(cache, folder)


@pytest.mark.parametrize("task", ["image", "inpaint"])
@pytest.mark.parametrize("model", ["tiny", "sdxl"])
def test_from_a_picture_and_inside_a_mask(cache, adapters, tiny_models, model, task):
    folder, adapter = folder_of(tiny_models, model), adapters(model)
    source, mask = photo(9, (64, 64)), half()
    given = {"image": source, "denoise": 0.7, **({"mask": mask} if task == "inpaint" else {})}
    theirs = {"image": source, "strength": 0.7}
    theirs |= {"mask_image": mask, "width": 64, "height": 64} if task == "inpaint" else {}
    ours = draw(cache, folder, ReferenceUse(adapter, (picture(1),)), steps=4, **given)
    assert ours == plain(folder, [adapter], [photo(1)], 1.0, task, steps=4, **theirs)


def test_two_pictures_count_two_and_without_guidance(cache, adapters):
    adapter = adapters(kind="plus")
    uses = ReferenceUse(adapter, (picture(1), picture(2)), 0.6)
    assert draw(cache, TINY, uses, count=2) == plain(
        TINY, [adapter], [[photo(1), photo(2)]], 0.6, count=2
    )
    assert draw(cache, TINY, uses, guidance=1.0) == plain(
        TINY, [adapter], [[photo(1), photo(2)]], 0.6, guidance_scale=1.0
    )


def test_two_adapters_in_either_order(cache, adapters):
    one, two = adapters(), adapters(kind="plus")
    uses = [ReferenceUse(one, (picture(1),), 0.5), ReferenceUse(two, (picture(2),), 0.8)]
    ours = draw(cache, TINY, *uses)
    assert ours == draw(cache, TINY, *reversed(uses))
    first, second = sorted((one, two), key=lambda adapter: adapter.path)
    shown = {one.path: (photo(1), 0.5), two.path: (photo(2), 0.8)}
    images, scales = zip(shown[first.path], shown[second.path], strict=True)
    assert ours == plain(TINY, [first, second], list(images), list(scales))


def test_masks_for_two_regions(cache, adapters):
    """One adapter twice, as for two people."""
    adapter = adapters()
    uses = [
        ReferenceUse(adapter, (picture(seed),), 0.8, mask=Picture.of(half(right=seed == 2)))
        for seed in (1, 2)
    ]
    ours = draw(cache, TINY, *uses)
    seeds = [1 if use == uses[0] else 2 for use in in_order(uses)]
    masks = [
        IPAdapterMaskProcessor().preprocess(half(right=seed == 2), height=64, width=64)
        for seed in seeds
    ]
    assert ours == plain(
        TINY,
        [adapter, adapter],
        [photo(seed) for seed in seeds],
        [0.8, 0.8],
        cross_attention_kwargs={"ip_adapter_masks": masks},
    )


def test_several_pictures_under_a_mask_share_its_weight(cache, adapters):
    adapter = adapters()
    use = ReferenceUse(adapter, (picture(1), picture(2)), 0.8, mask=Picture.of(half()))
    mask = IPAdapterMaskProcessor().preprocess(half(), height=64, width=64)
    theirs = plain(
        TINY,
        [adapter],
        [[photo(1), photo(2)]],
        [[0.4, 0.4]],
        cross_attention_kwargs={"ip_adapter_masks": [torch.cat([mask, mask], dim=1)]},
    )
    assert draw(cache, TINY, use) == theirs


def test_averaged_pictures_are_one(cache, adapters):
    adapter = adapters()
    ours = draw(cache, TINY, ReferenceUse(adapter, (picture(1), picture(2)), combine="average"))
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    said, nothing = pipeline.encode_image([photo(1), photo(2)], "cpu", 1, False)
    embeds = torch.cat([nothing[None, :1], said.mean(dim=0, keepdim=True)[None]])
    assert ours == plain(TINY, [adapter], None, 1.0, ip_adapter_image_embeds=[embeds])


def test_a_negative_picture_changes_that_half_alone(cache, adapters):
    adapter = adapters(kind="plus")
    use = ReferenceUse(adapter, (picture(1),), negatives=(picture(3),))
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    said, _ = pipeline.encode_image(photo(1), "cpu", 1, True)
    unwanted, _ = pipeline.encode_image(photo(3), "cpu", 1, True)
    embeds = torch.stack([unwanted, said])
    ours = draw(cache, TINY, use)
    assert ours == plain(TINY, [adapter], None, 1.0, ip_adapter_image_embeds=[embeds])
    bare = ReferenceUse(adapter, (picture(1),))
    assert ours != draw(cache, TINY, bare)
    assert draw(cache, TINY, use, guidance=1.0) == draw(cache, TINY, bare, guidance=1.0)


def test_beside_a_fused_lora(cache, adapters, make_lora):
    from likeness.pipelines.lora import applied
    from likeness.pipelines.spec import LoraUse

    adapter, lora = adapters(), LoraUse(make_lora(3), 0.8, 0.0)
    ours = draw(cache, TINY, ReferenceUse(adapter, (picture(1),), 0.7), loras=(lora,))
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    with cache.open(base_model(TINY)) as live, applied(live, [lora]):
        fused = {name: tensor.clone() for name, tensor in live.pipeline.unet.state_dict().items()}
    pipeline.unet.load_state_dict(fused, strict=False)
    try:
        assert ours == plain(TINY, [adapter], [photo(1)], 0.7)
    finally:
        pipeline.unet.load_state_dict(before)
    assert ours != plain(TINY, [adapter], [photo(1)], 0.7)


def test_a_window_that_covers_no_step_is_no_adapter(cache, adapters):
    """ControlNets' rule: a step counts when it lies inside the window whole."""
    adapter = adapters()

    def windowed(start, end):
        use = ReferenceUse(adapter, (picture(1),), start=start, end=end)
        return draw(cache, TINY, use, steps=4)

    nothing = draw(cache, TINY, steps=4)
    assert windowed(0.3, 0.45) == nothing
    assert windowed(0.0, 0.2) == nothing
    everything = draw(cache, TINY, ReferenceUse(adapter, (picture(1),)), steps=4)
    first, last = windowed(0.0, 0.5), windowed(0.5, 1.0)
    assert len({tuple(each) for each in (nothing, everything, first, last)}) == 4


def test_a_window_counts_steps_as_controlnets_do(cache, adapters):
    adapter = adapters()
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    use = ReferenceUse(adapter, (picture(1),), 0.9, start=0.25, end=0.75)

    def after(pipe, step, _, tensors):
        pipe.set_ip_adapter_scale(0.9 if step + 1 in (1, 2) else 0.0)
        return tensors

    pipeline.set_ip_adapter_scale(0.0)
    theirs = plain(TINY, [adapter], [photo(1)], 0.0, steps=4, callback_on_step_end=after)
    assert draw(cache, TINY, use, steps=4) == theirs
