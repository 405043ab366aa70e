"""Tiny random models of the real classes of transformers and diffusers, as folders."""

from __future__ import annotations

from pathlib import Path

import torch

DINO = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
    "reshape_hidden_states": False,
    "out_indices": [1, 2, 3, 4],
    "apply_layernorm": True,
}


def _saved(folder: Path, model, processor) -> Path:
    for tensor in model.parameters():
        if tensor.ndim > 1:  # initialised so small that every picture would look alike
            torch.nn.init.xavier_normal_(tensor)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def depth_anything(folder: Path, kind: str = "relative") -> Path:
    import transformers as library

    config = library.DepthAnythingConfig(
        backbone_config=library.Dinov2Config(**DINO),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
    )
    size = {"height": 56, "width": 56}
    processor = library.DPTImageProcessor(
        size=size, ensure_multiple_of=14, keep_aspect_ratio=True, do_pad=False
    )
    return _saved(folder, library.DepthAnythingForDepthEstimation(config), processor)


def dpt(folder: Path) -> Path:
    import transformers as library

    config = library.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    processor = library.DPTImageProcessor(size={"height": 32, "width": 32})
    return _saved(folder, library.DPTForDepthEstimation(config), processor)


def zoedepth(folder: Path) -> Path:
    import transformers as library

    backbone = library.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=16,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_indices=[1, 2, 3, 4],
    )
    config = library.ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 1, 1],
        bin_configurations=[{"n_bins": 4, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    processor = library.ZoeDepthImageProcessor(size={"height": 64, "width": 64})
    return _saved(folder, library.ZoeDepthForDepthEstimation(config), processor)


def segformer(folder: Path) -> Path:
    import transformers as library

    config = library.SegformerConfig(
        num_labels=150, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 16], decoder_hidden_size=8
    )
    processor = library.SegformerImageProcessor(size={"height": 64, "width": 64})
    return _saved(folder, library.SegformerForSemanticSegmentation(config), processor)


def upernet(folder: Path) -> Path:
    import transformers as library

    backbone = library.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = library.UperNetConfig(
        backbone_config=backbone, hidden_size=8, num_labels=150, use_auxiliary_head=False
    )
    processor = library.SegformerImageProcessor(size={"height": 64, "width": 64})
    return _saved(folder, library.UperNetForSemanticSegmentation(config), processor)


def _swin():
    import transformers as library

    return library.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def mask2former(folder: Path) -> Path:
    import transformers as library

    config = library.Mask2FormerConfig(
        backbone_config=_swin(),
        num_labels=150,
        hidden_dim=32,
        mask_feature_size=32,
        feature_size=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=16,
        encoder_feedforward_dim=16,
        num_queries=8,
    )
    processor = library.Mask2FormerImageProcessor(size={"height": 64, "width": 64})
    return _saved(folder, library.Mask2FormerForUniversalSegmentation(config), processor)


def oneformer(folder: Path, tiny_base: Path) -> Path:
    """With the class names where only the hub has them."""
    import transformers as library

    config = library.OneFormerConfig(
        backbone_config=_swin(),
        num_labels=150,
        num_queries=8,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        use_task_norm=True,
        task_seq_len=77,
        query_dec_layers=1,
        text_encoder_width=8,
        text_encoder_num_layers=1,
    )
    size = {"shortest_edge": 64, "longest_edge": 64}
    reader = library.OneFormerImageProcessor(size=size, class_info_file=None, num_text=4)
    reader.class_info_file = "ade20k_panoptic.json"
    words = library.CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    model = library.OneFormerForUniversalSegmentation(config)
    return _saved(folder, model, library.OneFormerProcessor(reader, words))


def marigold(folder: Path, tiny_base: Path) -> Path:
    """The text side of a tiny base model, a VAE, and a UNet that takes picture and normals."""
    import diffusers as library
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    text = CLIPTextModel.from_pretrained(tiny_base / "text_encoder")
    unet = library.UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text.config.hidden_size,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = library.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    library.MarigoldNormalsPipeline(
        unet=unet,
        vae=vae,
        scheduler=library.DDIMScheduler(),
        text_encoder=text,
        tokenizer=tokenizer,
        prediction_type="normals",
        default_denoising_steps=2,
        default_processing_resolution=64,
    ).save_pretrained(folder)
    return folder
