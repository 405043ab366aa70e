"""`likeness run | nodes | doctor | train | stop | save`: workflows and training without a browser.

Also `python cli.py ...` from a bare checkout, whatever its folder is called.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .headless.graph import Graph, Node
    from .headless.results import Outputs
    from .host import StandaloneHost

REQUESTS = {
    "stop": "have a running training stop after this step, with everything saved",
    "save": "have a running training write what it has learned so far, and go on",
}

FAILED, STOPPED = 1, 130
"""Exit codes. 2 is argparse's for a command that makes no sense."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    share_the_machine()
    command: Callable[[argparse.Namespace], dict[str, Any] | int] = options.command
    say = _Voice(options)
    try:
        with contextlib.nullcontext() if command is _train else _stdout_for_results():
            answer = command(options)
    except Exception as error:
        return _failed(error, options, say)
    except KeyboardInterrupt:
        return _stopped(options, say)
    if isinstance(answer, int):
        return answer
    if options.json:
        print(json.dumps(answer))
    else:
        print("\n".join(options.as_lines(answer)))
    return 0


def share_the_machine() -> None:
    """Let torch's threads spin only for a moment before they sleep while they wait for each other,
    unless the user said otherwise.

    They spin long by default, and then one that has no core to run on holds up all others: beside
    two other busy processes on two cores a step of the tiny base took 0.20 s, and 0.11 s this way.
    Those that never spin (`OMP_WAIT_POLICY=PASSIVE`) took 0.12 s there, but 0.13 s instead of
    0.04 s on a machine with nothing else to do. Heeded by GNU's OpenMP, which torch has on Linux,
    only before torch is loaded, and only here: inside ComfyUI the process is not ours to tune.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="likeness", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a workflow, here or on a ComfyUI server")
    run.set_defaults(command=_run, as_lines=_result_lines)
    run.add_argument(
        "workflow",
        type=Path,
        help=".json as ComfyUI's Save or Export (API) writes it; .png or .safetensors with one",
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change a value; NODE is a node's number, or its title or class if that is unique",
    )
    run.add_argument("--server", metavar="URL", help="let a running ComfyUI do it")
    run.add_argument("--quiet", action="store_true", help="no progress")

    nodes = commands.add_parser("nodes", help="list the nodes there are")
    nodes.set_defaults(command=_nodes, as_lines=_node_lines)

    doctor = commands.add_parser("doctor", help="what is installed, found and missing")
    doctor.set_defaults(command=_doctor, as_lines=_doctor_lines)

    train = commands.add_parser("train", help="train, or go on training, a run folder")
    train.set_defaults(command=_train, json=False)
    _add_training_arguments(train)

    for request, help in REQUESTS.items():
        asking = commands.add_parser(request, help=help)
        asking.set_defaults(command=_ask, request=request, as_lines=_asked_lines)
        asking.add_argument("folder", type=Path, help="the run folder that is being trained")
        asking.add_argument("--json", action="store_true", help="one JSON object, the last line")

    for sub in (run, nodes, doctor):
        sub.add_argument("--models", type=Path, metavar="DIR", help="default: ./models")
        sub.add_argument("--input", type=Path, metavar="DIR", help="default: ./input")
        sub.add_argument("--output", type=Path, metavar="DIR", help="default: ./output")
        sub.add_argument("--json", action="store_true", help="one JSON object, the last line")
    for sub in (run, nodes, doctor, train):
        sub.add_argument("--verbose", action="store_true", help="tracebacks of errors")
    return parser


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    from .trainers.__main__ import add_arguments

    add_arguments(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from .headless import workflow
    from .headless.executor import Executor
    from .headless.logs import logged_lines
    from .headless.overrides import override
    from .headless.replacements import fill_in_prefixes
    from .headless.results import collected, locate_here
    from .headless.server import Server

    say = _Voice(options)
    here = _use_folders(options)

    def started(node: Node) -> None:
        say(f"[{node.id}] {node.title or node.class_type}")

    runner = (
        Server(options.server, say) if options.server else Executor(_all_nodes(), on_start=started)
    )
    infos = runner.infos()
    graph = workflow.read(options.workflow, infos)
    _tell_left_out(graph, say)
    for setting in options.set:
        graph = override(graph, infos, setting)
    with _stop_on_ctrl_c(here), logged_lines(say, say.error):
        result = runner.run(fill_in_prefixes(graph), infos)
        locate = runner.fetch if isinstance(runner, Server) else locate_here
        outputs: Outputs = collected(result.ui, locate)
    return {"outputs": outputs, "seconds": round(result.seconds, 3)}


def _nodes(options: argparse.Namespace) -> dict[str, Any]:
    from .headless.executor import Executor

    _use_folders(options)
    return Executor(_all_nodes()).infos()


def _doctor(options: argparse.Namespace) -> dict[str, Any]:
    from .headless.doctor import examine

    _use_folders(options)
    return examine()


def _train(options: argparse.Namespace) -> int:
    from .host import StandaloneHost
    from .trainers.__main__ import train

    options.comfyui = options.comfyui or StandaloneHost().comfyui_folder()
    return train(options)


def _ask(options: argparse.Namespace) -> dict[str, Any]:
    from .trainers.machine.control import Control
    from .trainers.run_folder import open_run_folder

    folder = open_run_folder(options.folder).path
    owner = Control(folder).ask_running(options.request)
    return {"asked": options.request, "of": owner, "folder": str(folder)}


def _all_nodes() -> list[Any]:
    from .headless.core_nodes import CORE_NODES
    from .nodes import NODES

    return [*NODES, *CORE_NODES]


def _use_folders(options: argparse.Namespace) -> StandaloneHost:
    from .host import StandaloneHost, use

    quiet = getattr(options, "quiet", False)
    here = StandaloneHost(options.models, options.output, options.input, quiet=quiet)
    use(here)
    return here


def _result_lines(answer: dict[str, Any]) -> list[str]:
    lines = [
        str(item)
        for shown in answer["outputs"].values()
        for items in shown.values()
        for item in items
    ]
    return [*lines, f"Done in {answer['seconds']} s."]


def _node_lines(answer: dict[str, Any]) -> list[str]:
    width = max(map(len, answer), default=0)
    return [f"{id:<{width}}  {info['category']}" for id, info in answer.items()]


def _asked_lines(answer: dict[str, Any]) -> list[str]:
    return [f"asked {answer['of']} to {answer['asked']} after this step"]


def _doctor_lines(answer: dict[str, Any]) -> list[str]:
    from .headless.doctor import as_lines

    return as_lines(answer)


class _Voice:
    """Says things on the error stream, unless told to be quiet."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._quiet = getattr(options, "quiet", False)

    def __call__(self, line: str) -> None:
        if not self._quiet:
            self.error(line)

    def error(self, line: str) -> None:
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def _tell_left_out(graph: Graph, say: _Voice) -> None:
    for id, reason in graph.left_out.items():
        say(f"[{id}] left out: {reason}")


def _failed(error: Exception, options: argparse.Namespace, say: _Voice) -> int:
    """Report an error in one line (a traceback only when asked for)."""
    from .headless.errors import NodeError, ServerError, WorkflowError
    from .host import Interrupted

    if isinstance(error, Interrupted):
        return _stopped(options, say)
    if getattr(options, "verbose", False):
        traceback.print_exception(error)
    expected = isinstance(error, NodeError | WorkflowError | ServerError)
    kind = "" if expected or isinstance(error, ValueError) else f"{type(error).__name__}: "
    described = {"message": f"{kind}{error}"}
    if isinstance(error, NodeError):
        described = error.as_dict()
    for one in (described["message"], *getattr(error, "also", ())):
        say.error(f"Error: {one}")
    if options.json:
        print(json.dumps({"error": described}, default=str))
    return FAILED


def _stopped(options: argparse.Namespace, say: _Voice) -> int:
    say.error("Stopped.")
    if options.json:
        print(json.dumps({"error": {"message": "Stopped at your request."}}))
    return STOPPED


@contextlib.contextmanager
def _stop_on_ctrl_c(here: StandaloneHost) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the work to stop and to save its state; the second one ends
    it.
    """
    from .trainers.machine.signals import StopRequest, stopped_by_signals, tell

    def stop() -> None:
        here.request_stop()
        tell("Stopping after this step. Press Ctrl-C again to stop at once.")

    with stopped_by_signals(StopRequest(stop)):
        yield


@contextlib.contextmanager
def _stdout_for_results() -> Iterator[None]:
    """Whatever nodes and libraries print goes to the error stream."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _as_package() -> Callable[[], int]:
    """`main` of the package around this file, imported as `likeness`, as setup would have it."""
    folder = Path(__file__).resolve().parent
    # The folders of the package must not be taken for top-level modules such as `nodes`.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    spec = importlib.util.spec_from_file_location(
        "likeness", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    package = importlib.util.module_from_spec(spec)
    sys.modules["likeness"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("likeness.cli").main


if __name__ == "__main__":
    sys.exit(main() if __package__ else _as_package()())
