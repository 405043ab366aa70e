"""How well the bundled ControlNet follows edges and the bundled IP-Adapter its picture.

    python benchmarks/guidance.py --work DIR                       # all four tables, 64 samples
    python benchmarks/guidance.py --work DIR --parts control --samples 16
    python benchmarks/guidance.py --work DIR --pictures web/docs   # and the help pages' pictures

Everything is drawn with Likeness's own `generate` on the tiny base, from pictures of the tiny world
(16 things before 9 backgrounds) that no part was trained on: seeds 9000 (what is followed) and 9500
(what is taken after), noise seeds 4000 and on; mean ± standard error over the samples.

control    prompts name the thing and a colour that the source does not have, never a place or a
           background. edge F1: between the edges of source and drawing, within 1 pixel
reference  no words at all. cosine, found again: to the image encoder that the IP-Adapter was
           trained on, which flatters it. palette: shares of twelve colours in common. noun, colour,
           background: a judge, trained on drawings alone, sees what the reference shows
both       "a photo of a NOUN" with the edges of one picture and the style of another
lora       the same with a LoRA of the creature: "a photo of sks monster". creature: its three
           colours (1 = as much as in pictures of it)

The judge is trained in `DIR/judge` (or `--judge`) first, about a quarter of an hour on one core,
the LoRA in two minutes, as `example_workflows/quickstart.json` does it. Drawings are kept in DIR:
none is drawn twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import guidance_measures as measures
import numpy as np
from guidance_pictures import save_grid
from guidance_use import Guides, creature_lora
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.images import image_files, open_image
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec
from likeness_metrics import TINY, palette_overlap
from PIL import Image

FOLLOWED, TAKEN_AFTER, NOISE, MONSTERS = 9000, 9500, 4000, 9700  # seeds
STRENGTHS = (0.0, 0.5, 1.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
LORA_WEIGHT = 0.5
"""Of the reference beside the LoRA: both say how the picture's colours should be."""
PARTS = ("control", "reference", "both", "lora")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where drawings are kept")
    parser.add_argument("--judge", type=Path, help="a folder of make.py with a trained judge")
    parser.add_argument("--judge-steps", type=int, default=760)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    parser.add_argument("--pictures", type=Path, help="web/docs: write the help pages' pictures")
    options = parser.parse_args()
    bench = Bench(options)
    results = {}
    for part in options.parts:
        results[part] = getattr(bench, part)()
        print_table(part, results[part])
    if options.json is not None:
        told = {name: getattr(options, name) for name in ("samples", "steps", "guidance")}
        options.json.write_text(json.dumps(told | results, indent=1) + "\n", encoding="utf-8")
    if options.pictures is not None:
        bench.save_pictures(options.pictures)


class Bench:
    """What all parts share: the base, what steers it, and where drawings are kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pipelines = Pipelines(options.device)
        self.base = PipelineSpec(base_model(TINY / "base"))
        self.guides = Guides()
        self.followed = measures.samples(options.samples, FOLLOWED)
        self.taken_after = measures.samples(options.samples, TAKEN_AFTER)
        random.Random(0).shuffle(self.taken_after)  # not the noun that is followed
        self.references = [sample.image for sample in self.taken_after]
        self.judge = measures.Judge(options.judge or options.work / "judge", options.judge_steps)

    # -- the four tables ---------------------------------------------------------------------------

    def control(self) -> list[Row]:
        sources = [sample.image for sample in self.followed]
        rng = random.Random(5)
        colors = [measures.other_color(sample, rng) for sample in self.followed]
        prompts = [
            f"a photo of {article(color)} {color} {sample.shown.noun}"
            for color, sample in zip(colors, self.followed, strict=True)
        ]
        rows = [
            {
                "": "other pictures (chance)",
                "edge F1": spread(measures.edge_f1(sources, [*sources[1:], sources[0]])),
            }
        ]
        for strength in STRENGTHS:
            specs = [self.controlled(self.base, source, strength) for source in sources]
            drawn = self.drawn(f"control {strength}", specs, prompts)
            judged = self.judge.agrees(drawn, [sample.shown for sample in self.followed])
            rows.append(
                {
                    "": f"strength {strength:g}" if strength else "no control",
                    "edge F1": spread(measures.edge_f1(sources, drawn)),
                    "noun": spread(judged["noun"]),
                }
            )
        ceiling = measures.edge_f1(sources, measures.through_vae(sources))
        rows.append({"": "the source through the VAE (ceiling)", "edge F1": spread(ceiling)})
        return rows

    def reference(self) -> list[Row]:
        rows = []
        for weight in WEIGHTS:
            specs = [self.referenced(self.base, image, weight) for image in self.references]
            drawn = self.drawn(f"reference {weight}", specs, [""] * len(specs))
            rows.append({"": f"weight {weight:g}", **self.likeness(drawn, found=True)})
        rows.append({"": "the references themselves", **self.likeness(self.references, found=True)})
        return rows

    def both(self) -> list[Row]:
        sources = [sample.image for sample in self.followed]
        shown = [sample.shown for sample in self.followed]
        prompts = [f"a photo of {article(one.noun)} {one.noun}" for one in shown]
        rows = []
        for title, strength, weight, blocks in (
            ("neither", 0.0, 0.0, "all"),
            ("ControlNet", 1.0, 0.0, "all"),
            ("IP-Adapter", 0.0, 1.0, "all"),
            ("both", 1.0, 1.0, "all"),
            ("both, style only", 1.0, 1.0, "style only"),
        ):
            specs = [
                self.guided(self.base, source, image, strength, weight, blocks)
                for source, image in zip(sources, self.references, strict=True)
            ]
            drawn = self.drawn(f"both {title}", specs, prompts)
            judged = self.judge.agrees(drawn, shown)
            rows.append(
                {
                    "": title,
                    "edge F1": spread(measures.edge_f1(sources, drawn)),
                    "noun of the source": spread(judged["noun"]),
                    **self.likeness(drawn, noun=False),
                }
            )
        return rows

    def lora(self) -> list[Row]:
        """Edges of monsters of any kind, backgrounds and colours of other pictures."""
        learned = self.base.with_lora(creature_lora(self.pipelines, self.base, self.options.work))
        poses = measures.samples(self.options.samples, MONSTERS, "monster")
        sources = [sample.image for sample in poses]
        creature = [open_image(path) for path in image_files(TINY / "subject_held_out")]
        rows = []
        for title, spec, strength, weight in (
            ("the base alone", self.base, 0.0, 0.0),
            ("LoRA", learned, 0.0, 0.0),
            ("LoRA, ControlNet", learned, 1.0, 0.0),
            (f"LoRA, IP-Adapter at {LORA_WEIGHT:g}", learned, 0.0, LORA_WEIGHT),
            (f"all three, IP-Adapter at {LORA_WEIGHT:g}", learned, 1.0, LORA_WEIGHT),
            ("all three, IP-Adapter at 1", learned, 1.0, 1.0),
        ):
            specs = [
                self.guided(spec, source, image, strength, weight)
                for source, image in zip(sources, self.references, strict=True)
            ]
            drawn = self.drawn(f"lora {title}", specs, ["a photo of sks monster"] * len(specs))
            rows.append(
                {
                    "": title,
                    "creature": spread(palette_overlap(drawn, creature)),
                    "edge F1": spread(measures.edge_f1(sources, drawn)),
                    **self.likeness(drawn, noun=False),
                }
            )
        return rows

    # -- drawing and judging -----------------------------------------------------------------------

    def controlled(self, spec: PipelineSpec, source: Image.Image, strength: float) -> PipelineSpec:
        if not strength:
            return spec
        return spec.with_control(self.guides.control(measures.edge_picture(source), strength))

    def referenced(
        self, spec: PipelineSpec, image: Image.Image, weight: float, blocks: str = "all"
    ) -> PipelineSpec:
        if not weight:
            return spec
        return spec.with_reference(self.guides.reference(image, weight, blocks))

    def guided(
        self,
        spec: PipelineSpec,
        source: Image.Image,
        image: Image.Image,
        strength: float,
        weight: float,
        blocks: str = "all",
    ) -> PipelineSpec:
        return self.referenced(self.controlled(spec, source, strength), image, weight, blocks)

    def drawn(
        self, row: str, specs: Sequence[PipelineSpec], prompts: Sequence[str]
    ) -> list[Image.Image]:
        """One picture for each spec, looked up where it was drawn before."""
        folder = self.folder(row, specs[0])
        folder.mkdir(parents=True, exist_ok=True)
        for number, (spec, prompt) in enumerate(zip(specs, prompts, strict=True)):
            path = folder / f"{number:03d}.png"
            if not path.is_file():
                sampling = Sampling(
                    prompt,
                    steps=self.options.steps,
                    guidance=self.options.guidance,
                    seed=NOISE + number,
                )
                generate(self.pipelines, spec, sampling)[0].save(path)
        return [open_image(folder / f"{number:03d}.png") for number in range(len(specs))]

    def folder(self, row: str, spec: PipelineSpec) -> Path:
        """Where the drawings of a row are: elsewhere when a file that they depend on changes."""
        files = [use.lora.sha256 for use in spec.loras]
        files += [use.control.identity for use in spec.controls]
        files += [use.adapter.sha256 for use in spec.references]
        told = (self.options.steps, self.options.guidance, files)
        name = hashlib.sha256(repr(told).encode()).hexdigest()[:8]
        return self.options.work / "drawn" / name / row.replace(" ", "-")

    def likeness(
        self, drawn: Sequence[Image.Image], noun: bool = True, found: bool = False
    ) -> dict[str, str]:
        """How much drawings take after their references."""
        judged = self.judge.agrees(drawn, [sample.shown for sample in self.taken_after])
        scores = {"cosine": measures.cosine(drawn, self.references)}
        if found:
            scores["found again"] = measures.found_again(drawn, self.references)
        scores |= {
            "palette": measures.palette(drawn, self.references),
            "colour": judged["color"],
            "background": judged["scene"],
        }
        if noun:
            scores["noun"] = judged["noun"]
        return {name: spread(values) for name, values in scores.items()}

    # -- pictures ----------------------------------------------------------------------------------

    def save_pictures(self, docs: Path) -> None:
        """What the tables measured, as help pages show it: the first samples, none chosen."""
        first = self.followed[0].image
        columns = {
            s: self.kept(f"control {s}", self.controlled(self.base, first, s)) for s in STRENGTHS
        }
        rows = [
            [sample.image, measures.edge_picture(sample.image), *(columns[s][i] for s in STRENGTHS)]
            for i, sample in enumerate(self.followed[:8])
        ]
        titles = ("source", "edges", *(f"strength {s:g}" for s in STRENGTHS))
        save_grid(docs / "LikenessApplyControlNet" / "effect.jpg", titles, rows, blocks=2)
        first = self.references[0]
        columns = {
            w: self.kept(f"reference {w}", self.referenced(self.base, first, w)) for w in WEIGHTS
        }
        rows = [
            [image, *(columns[weight][i] for weight in WEIGHTS)]
            for i, image in enumerate(self.references[:8])
        ]
        titles = ("reference", *(f"weight {weight:g}" for weight in WEIGHTS))
        save_grid(docs / "LikenessApplyIPAdapter" / "effect.jpg", titles, rows, blocks=2)

    def kept(self, row: str, spec: PipelineSpec) -> list[Image.Image]:
        """Drawn before.

        Raises:
            SystemExit: they were not; the part has to be measured first.
        """
        files = sorted(self.folder(row, spec).glob("*.png"))
        if not files:
            raise SystemExit(f"{row!r} was not drawn yet; name its part in --parts")
        return [open_image(file) for file in files]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def spread(values: np.ndarray) -> str:
    """Mean ± standard error."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{values.mean():.3f} ± {error:.3f}"


def print_table(part: str, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n{part}\n\n| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print(f"| {' | '.join(str(row.get(column, '')) for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
