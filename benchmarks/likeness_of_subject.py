"""How much a LoRA makes 'sks monster' the taught creature, and how little it changes 'a monster'.

    python benchmarks/likeness_of_subject.py --work DIR "steps=400 learning_rate=0.002" "prior=no"

Each argument is one way of training on the bundled tiny base; settings that it does not name are
those of the quickstart. Every row is measured on the same 32 pictures of the subject and 32 of its
class:

palette   share of the creature's three colours, 1 = as much as in the held-out pictures
image     mean cosine of tiny CLIP image embeddings to the eight held-out pictures

Runs and scores are kept in DIR, so a row that was measured before is only printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.headless import workflow
from likeness.headless.core_nodes import CORE_NODES
from likeness.headless.executor import Executor
from likeness.nodes import NODES
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.images import image_files, open_image
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.lora.files import describe_lora
from likeness.pipelines.spec import LoraUse, PipelineSpec
from likeness.trainers.job import TrainingJob
from likeness.trainers.report import QuietReport, read_log
from likeness.trainers.run import train
from likeness.trainers.run_folder import create_or_find
from likeness.trainers.samples import samples_from_folder
from likeness.trainers.settings import LoraSettings, PriorSettings, TrainingSettings, describe

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

TINY = Path(__file__).parent.parent / "assets" / "tiny"
SUBJECT_PROMPT = "a photo of sks monster"
CLASS_PROMPT = "a photo of a monster"
SCENES = (
    "on a white background",
    "on a blue background",
    "on a green background",
    "in the sky",
    "on the grass",
    "at night",
    "on the beach",
    "in the snow",
)
SEEDS_PER_SCENE = 4
CREATURE = ((245, 140, 25), (25, 165, 165), (248, 222, 50))
"""Body, horns and feet, belly. The dark mouth is left out: a night sky has its colour."""
NEAR = 60
"""Largest distance in RGB at which a pixel counts as one of the creature's colours."""

QUICKSTART = Path(__file__).parent.parent / "example_workflows" / "quickstart.json"


def quickstart_settings() -> dict[str, Any]:
    """The settings of the shipped quickstart: what its training nodes are given."""
    infos = Executor([*NODES, *CORE_NODES]).infos()
    nodes = workflow.read(QUICKSTART, infos).nodes.values()
    inputs = {node.class_type: dict(node.inputs) for node in nodes}
    return {
        **inputs["LikenessTrainLora"],
        **{name: inputs["LikenessClassImages"][name] for name in ("class_prompt", "count")},
        "guidance": inputs["LikenessClassImages"]["guidance"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "variants", nargs="*", default=[""], help="such as 'steps=400 rank=8 prior=no'"
    )
    parser.add_argument("--work", type=Path, required=True, help="where runs and scores are kept")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    pipelines = Pipelines(options.device)
    spec = PipelineSpec(base_model(TINY / "base"))
    rows = {"base": measured(pipelines, spec, options.work, "base")}
    print_row("base", rows["base"])
    for variant in options.variants:
        row = train_and_measure(pipelines, spec, options.work, variant)
        print_row(variant or "quickstart", row)


def train_and_measure(
    pipelines: Pipelines, spec: PipelineSpec, work: Path, variant: str
) -> dict[str, float]:
    job = job_of(spec, variant)
    folder = create_or_find(work, "monster", job)
    began = time.monotonic()
    result = train(folder, pipelines, PrintingReport())
    seconds = time.monotonic() - began
    lora = describe_lora(result.lora_path)
    row = measured(pipelines, spec.with_lora(LoraUse(lora)), work, folder.path.name)
    log = read_log(result.log)
    row["loss"] = log[-1]["smoothed"]
    row["s_per_step"] = sorted(line["seconds"] for line in log)[len(log) // 2]
    if not result.found:
        print(f"trained in {seconds:.0f} s, class pictures included")
    return row


def job_of(spec: PipelineSpec, variant: str) -> TrainingJob:
    """The training that `variant` describes, on the five bundled pictures."""
    words = dict(word.split("=", 1) for word in variant.split())
    with_prior = words.pop("prior", "yes") == "yes"
    kinds = {
        each.name: each.kind
        for settings in (TrainingSettings, LoraSettings, PriorSettings)
        for each in describe(settings)
    }
    values = quickstart_settings()
    for name, text in words.items():
        if name not in kinds:
            raise SystemExit(f"unknown setting {name!r}; known: {', '.join(kinds)}, prior")
        values[name] = text == "True" if kinds[name] is bool else kinds[name](text)
    return TrainingJob(
        spec=spec,
        samples=samples_from_folder(TINY / "subject", SUBJECT_PROMPT),
        method="lora",
        method_settings=settings_from(LoraSettings, values),
        training=settings_from(TrainingSettings, values),
        prior=settings_from(PriorSettings, values, leave=("steps", "batch_size"))
        if with_prior
        else None,
        trigger="sks",
    )


def settings_from(settings_type: Any, values: dict[str, Any], leave: Sequence[str] = ()) -> Any:
    names = {each.name for each in describe(settings_type)} - set(leave)
    return settings_type(**{name: value for name, value in values.items() if name in names})


def measured(pipelines: Pipelines, spec: PipelineSpec, work: Path, name: str) -> dict[str, float]:
    """Scores of what `spec` draws of subject and class, kept in `work/scores`."""
    file = work / "scores" / f"{name}.json"
    if not file.is_file():
        held_out = [open_image(path) for path in image_files(TINY / "subject_held_out")]
        row: dict[str, float] = {}
        for kind, prompt, seed in (("subject", SUBJECT_PROMPT, 21), ("class", CLASS_PROMPT, 22)):
            images = draw(pipelines, spec, prompt, seed)
            row[f"{kind}_palette"] = palette_overlap(images, held_out)
            row[f"{kind}_image"] = image_similarity(images, held_out)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_grid(images, file.with_name(f"{name}-{kind}.png"))
        file.write_text(json.dumps(row))
    return json.loads(file.read_text())


def draw(pipelines: Pipelines, spec: PipelineSpec, prompt: str, seed: int) -> list[Image]:
    """`SEEDS_PER_SCENE` pictures in each scene, the same seeds for whoever draws."""
    images: list[Image] = []
    for index, scene in enumerate(SCENES):
        first = seed * 1000 + index * SEEDS_PER_SCENE
        sampling = Sampling(f"{prompt} {scene}", seed=first, count=SEEDS_PER_SCENE)
        images += generate(pipelines, spec, sampling)
    return images


def palette_overlap(images: Sequence[Image], references: Sequence[Image]) -> float:
    """Mean over pictures and colours of `min(share of the pixels / share in the references, 1)`."""
    import numpy as np

    wanted = np.mean([color_shares(image) for image in references], axis=0)
    shares = np.array([color_shares(image) for image in images])
    return float(np.minimum(shares / wanted, 1).mean())


def color_shares(image: Image) -> np.ndarray:
    """[colours] share of the pixels that are near each of the creature's colours."""
    import numpy as np

    pixels = np.asarray(image, dtype=float)[:, :, None]
    distances = np.sqrt(((pixels - np.array(CREATURE)) ** 2).sum(-1))
    nearest, near = distances.argmin(-1), distances.min(-1) < NEAR
    return np.array([(near & (nearest == color)).mean() for color in range(len(CREATURE))])


def image_similarity(images: Sequence[Image], references: Sequence[Image]) -> float:
    """Mean cosine of CLIP image embeddings over all pairs."""
    return float((embeddings(images) @ embeddings(references).T).mean())


def embeddings(images: Sequence[Image]) -> Any:
    """[pictures, width], each of length 1."""
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection.from_pretrained(
        TINY / "image_encoder", dtype=torch.float32, local_files_only=True
    ).eval()
    processor = CLIPImageProcessor.from_pretrained(
        TINY / "feature_extractor", local_files_only=True
    )
    with torch.no_grad():
        pixels = processor(images=list(images), return_tensors="pt").pixel_values
        return torch.nn.functional.normalize(encoder(pixels).image_embeds, dim=-1)


def save_grid(images: Sequence[Image], path: Path) -> None:
    """One row per scene."""
    from PIL import Image as Pillow

    width, height = images[0].size
    rows = len(images) // SEEDS_PER_SCENE
    grid = Pillow.new("RGB", (rows * width, SEEDS_PER_SCENE * height))
    for index, image in enumerate(images):
        row, column = divmod(index, SEEDS_PER_SCENE)
        grid.paste(image, (row * width, column * height))
    grid.save(path)


def print_row(name: str, row: dict[str, float]) -> None:
    cells = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
    print(f"{name:40s} {cells}", flush=True)


class PrintingReport(QuietReport):
    def step(self, step: int, total: int, loss: float, *facts: Any) -> None:
        if step % 50 == 0:
            print(f"  step {step}/{total} loss {loss:.4f}, {facts[-1]:.0f} s left", flush=True)


if __name__ == "__main__":
    main()
