"""A control picture, masks and phrases out of a sketch in words."""

from __future__ import annotations

from ..host import host, io
from ..pipelines.sketch.limits import MAX_LINE_WIDTH, MAX_SIDE, MIN_SIDE, STYLES

MAX_SEED = 2**63 - 1  # servers read it as a signed number
EXAMPLE = r"""\begin{tikzpicture}
\useasboundingbox (0,0) rectangle (10,10);

% a wooden table
\filldraw[fill=brown!80!black] (0.5,3) -- (9.5,3) -- (10,2) -- (0,2) -- cycle;
\foreach \x in {0.8,8.6} \filldraw[fill=brown] (\x,2) rectangle ++(0.6,-2);

% a red cup
\draw[red, line width=6pt] (4,3.9) arc (90:-90:0.5 and 0.45);
\filldraw[fill=red] (2,4.5) -- (2.3,2.6) -- (3.9,2.6) -- (4.2,4.5) -- cycle;

% a green apple
\filldraw[fill=green] (7,3.3) circle (0.9);
\draw[very thick] (7,4.1) to[bend left] (7.4,4.8);
\end{tikzpicture}
"""


class Sketch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessSketch",
            display_name="Sketch",
            category="Likeness/guide",
            description="Draw a scene as a small TikZ program, by hand or by a language model: it "
            "becomes a control picture, with a mask and a phrase for each object. Nothing in the "
            "program is executed.",
            search_aliases=["tikz", "controlgpt", "layout", "scribble", "regional prompt"],
            inputs=[
                io.String.Input(
                    "program",
                    multiline=True,
                    default=EXAMPLE,
                    dynamic_prompts=False,
                    tooltip="The sketch in TikZ, typed or from any node that gives text; words and "
                    "Markdown around it are skipped. A comment line before some commands names "
                    "the object that they draw. Empty: a language model is asked, see scene.",
                ),
                _side("width", "Width"),
                _side("height", "Height"),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="scribble",
                    tooltip="scribble: white lines on black, for scribble, lineart and canny "
                    "ControlNets. lines: black on white. colour: as the program colours it. "
                    "segments: each object in one flat colour.",
                ),
                io.Float.Input(
                    "line_width",
                    default=3.0,
                    min=1.0,
                    max=float(MAX_LINE_WIDTH),
                    step=0.5,
                    tooltip="Pixels that a line is wide at least. A wider line of the program "
                    "keeps its width.",
                ),
                io.String.Input(
                    "object",
                    default="",
                    tooltip="Which object object_mask and object_phrase give: its number, or words "
                    "of its phrase. Empty: all of them together.",
                ),
                *_asking(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The control picture."),
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="A list: where each object is.",
                ),
                io.String.Output(
                    display_name="phrases",
                    is_output_list=True,
                    tooltip="A list: what each object is, in the order of the masks.",
                ),
                io.String.Output(
                    display_name="program",
                    tooltip="The program that was drawn. Paste a language model's into program to "
                    "keep it.",
                ),
                io.Mask.Output(
                    display_name="object_mask", tooltip="Where the object chosen above is."
                ),
                io.String.Output(
                    display_name="object_phrase", tooltip="What the object chosen above is."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        program,
        width,
        height,
        style,
        line_width,
        object="",
        scene="",
        endpoint="",
        model="",
        key_variable="LIKENESS_LLM_KEY",
        seed=0,
    ):
        from ..pipelines.images import to_tensor
        from ..pipelines.sketch.ask import program_for
        from ..pipelines.sketch.picture import mask_tensor, sketch

        if endpoint.strip() and scene.strip() and not program.strip():
            program = program_for(
                scene,
                endpoint,
                model,
                width=width,
                height=height,
                seed=seed,
                key_variable=key_variable,
                check=host().throw_if_interrupted,
            )
        drawn = sketch(program, width, height, style, line_width, scene)
        mask, phrase = drawn.chosen(object)
        return io.NodeOutput(
            to_tensor([drawn.image]),
            [mask_tensor(one.mask) for one in drawn.objects],
            [one.phrase for one in drawn.objects],
            program,
            mask_tensor(mask),
            phrase,
            ui={"text": [drawn.described()]},
        )


def _side(name: str, word: str):
    return io.Int.Input(
        name,
        default=512,
        min=MIN_SIDE,
        max=MAX_SIDE,
        step=8,
        tooltip=f"{word} of the picture and the masks in pixels: that of what you generate.",
    )


def _asking():
    """What it takes to ask a language model; nothing is asked without an endpoint."""
    return [
        io.String.Input(
            "scene",
            multiline=True,
            default="",
            dynamic_prompts=False,
            optional=True,
            advanced=True,
            tooltip="The scene in words, for a language model to draw when program is empty. It "
            "is also the phrase of a program that names no object.",
        ),
        io.String.Input(
            "endpoint",
            default="",
            optional=True,
            advanced=True,
            tooltip="An OpenAI-compatible server that the scene is sent to, such as "
            "http://localhost:11434/v1. Empty: nothing is ever sent. Plain http only on this "
            "machine and its own network.",
        ),
        io.String.Input(
            "model",
            default="",
            optional=True,
            advanced=True,
            tooltip="The language model's name on that server, such as llama3.1 or gpt-4o.",
        ),
        io.String.Input(
            "key_variable",
            default="LIKENESS_LLM_KEY",
            optional=True,
            advanced=True,
            tooltip="The environment variable that holds the server's key; it begins with "
            "LIKENESS_. It is sent only to the host that the variable of the same name with _HOST "
            "behind it holds. Never write a key itself here.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MAX_SEED,
            optional=True,
            advanced=True,
            tooltip="Sent with the question. The same question with the same seed is asked only "
            "once; change it for another answer.",
        ),
    ]
