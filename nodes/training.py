"""What all training nodes have in common: their inputs, their progress, and starting a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..host import host, io
from ..trainers.settings import ExpertSettings, TrainingSettings, WatchSettings
from . import session
from .sockets import ClassImages, Images, Pipeline, Settings
from .training_report import NodeReport
from .training_watch import watched
from .widgets import pick, widgets

if TYPE_CHECKING:
    from ..pipelines.spec import PipelineSpec
    from ..trainers.result import TrainingResult
    from ..trainers.run_folder import RunFolder

BASIC = ("steps", "learning_rate", "batch_size", "resolution", "seed", "text_learning_rate")

MOST_PICTURES = 16
"""Preview pictures that a node shows when it is done."""

_stopped: dict[str, int] = {}


def training_inputs(result: str) -> list[Any]:
    """The sockets that come first on every training node, and the name of what it makes."""
    return [
        Pipeline.Input(
            "pipeline",
            tooltip="The model that learns. LoRAs that are on it stay on while it does.",
        ),
        Images.Input("images", tooltip="Your pictures with their captions."),
        ClassImages.Input(
            "class_images",
            optional=True,
            tooltip="Keeps your subject's kind as it was. Without it every 'dog' turns into yours.",
        ),
        Settings.Input(
            "settings", optional=True, tooltip="All else that training can be told; see there."
        ),
        io.String.Input(
            "name",
            default="my subject",
            tooltip=f"What to call the {result}: its file and its run folder.",
        ),
    ]


def training_widgets() -> list[Any]:
    """The settings that every training node shows."""
    return widgets(TrainingSettings, only=BASIC)


def watch_widgets() -> list[Any]:
    return widgets(WatchSettings)


def run_training(
    node: Any,
    method: str,
    method_settings: Any,
    pipeline: PipelineSpec,
    images: Any,
    name: str,
    class_images: Any,
    settings: ExpertSettings | None,
    values: dict[str, Any],
) -> tuple[RunFolder, TrainingResult, dict[str, list[Any]]]:
    """Find or make the run of a training node and train it → run, result, and what to show (`ui`).
    `values`: those of the node's widgets.
    """
    from ..trainers.job import TrainingJob
    from ..trainers.run_folder import create_or_find
    from ..trainers.start import start

    expert = asdict(settings or ExpertSettings())
    job = TrainingJob(
        spec=pipeline,
        samples=images,
        method=method,
        method_settings=method_settings,
        training=TrainingSettings(**expert, **{key: values[key] for key in BASIC if key in values}),
        watch=WatchSettings(**pick(WatchSettings, values)),
        prior=class_images or (),
        workflow=workflow_of(node),
    )
    folder = create_or_find(session.runs_folder(), name, job)
    bar = host().progress(1)
    with watched(bar.node_id, folder.path, canvas_id(node)) as training:
        report = NodeReport(bar, training)
        result = start(folder, session.pipelines(), report, job.watch.place)
        if result.stopped:
            _stopped[name] = _stopped.get(name, 0) + 1
        return folder, result, shown(result, report.ended(result))


def stops(name: str | None) -> int:
    """How often the training called `name` was stopped and kept: the graph went on with what was
    learned until then, and when it is queued again, the training has to go on too. None: the name
    comes from another node, which ComfyUI does not tell here, so it may be any of them.
    """
    return sum(_stopped.values()) if name is None else _stopped.get(name, 0)


def shown(result: TrainingResult, text: str) -> dict[str, list[Any]]:
    """What the node shows when it is done: a text, and the newest preview pictures of the run."""
    output = host().output_directory().resolve()  # as the run folder is
    pictures = [
        {
            "filename": path.name,
            "subfolder": path.parent.relative_to(output).as_posix(),
            "type": "output",
        }
        for path in result.samples[-MOST_PICTURES:]
        if path.is_relative_to(output)
    ]
    return {"text": [text], **({"images": pictures} if pictures else {})}


def losses_of(result: TrainingResult) -> dict[str, list[float]]:
    """The loss of every step, as ComfyUI's LOSS_MAP."""
    from ..trainers.report import read_log

    return {"loss": [line["loss"] for line in read_log(result.log)]}


def workflow_of(node: Any) -> str:
    """The graph on the canvas as JSON, or "" where there is none (a bare API call)."""
    workflow = (node.hidden.extra_pnginfo or {}).get("workflow")
    return json.dumps(workflow) if workflow else ""


def canvas_id(node: Any) -> str:
    """The id of the graph on the canvas, "" where there is none."""
    workflow = (node.hidden.extra_pnginfo or {}).get("workflow")
    return str(workflow.get("id") or "") if isinstance(workflow, dict) else ""
