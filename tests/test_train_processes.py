"""Training in other processes than this one: asked to stop, crashed, apart, several together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from likeness.pipelines.spec import PipelineSpec
from likeness.trainers.data.samples import samples_from_folder
from likeness.trainers.errors import NothingLearned, TrainingCrashed
from likeness.trainers.job import TrainingJob
from likeness.trainers.machine.control import Control
from likeness.trainers.machine.signals import SAME_WISH
from likeness.trainers.machine.team import Team
from likeness.trainers.methods.lora import LoraSettings
from likeness.trainers.report import QuietReport, read_log
from likeness.trainers.run import train
from likeness.trainers.run_folder import RunFolder, create_or_find
from likeness.trainers.settings import PriorSettings, TrainingSettings, WatchSettings
from likeness.trainers.start import APART, HERE, start

from .conftest import ROOT, SUBJECT
from .nursery import a_nursery

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

LONG = 10_000
"""Steps that nobody waits for."""

SUMMATION = {"log": 1e-4, "learned": 1e-3}
"""How far two processes may be from one, relative to the largest number of a curve and to the
length of all weights: they add the same numbers in another order, in float32. Measured after 6
steps: 5e-7 and 6e-7; where each has another number of threads as well 1.4e-5 and 7e-5.
"""


@pytest.fixture(scope="module")
def nursery():
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def job(tiny_base) -> TrainingJob:
    return TrainingJob(
        PipelineSpec(tiny_base),
        samples_from_folder(SUBJECT, "a photo of sks monster")[:3],
        "lora",
        LoraSettings(rank=2, targets="attention", train_text_encoder="off"),
        TrainingSettings(steps=6, learning_rate=1e-3, resolution=32, precision="float32"),
        watch=WatchSettings(checkpoint_every=2),
    )


def steps(job: TrainingJob, count: int) -> TrainingJob:
    return replace(job, training=replace(job.training, steps=count))


def learned(folder: RunFolder) -> bytes:
    return (folder.result / "monster.safetensors").read_bytes()


def log_of(folder: RunFolder):
    return [{**line, "seconds": 0} for line in read_log(folder.log)]


def until(true, what: str) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)


def said(output: Path) -> str:
    return output.read_text() if output.exists() else ""


def steps_done(folder: RunFolder) -> int:
    return len(read_log(folder.log))


# --- asked to stop --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "stop"])
def test_the_first_wish_to_stop_ends_well(nursery, job, tmp_path, how):
    folder = create_or_find(tmp_path, "monster", steps(job, LONG))
    output = tmp_path / "said"
    process = nursery.start_command("train", str(folder.path), "--device", "cpu", output=output)
    until(lambda: steps_done(folder) >= 3, "the third step")
    if how.startswith("SIG"):
        os.kill(process, getattr(signal, how))
    else:
        asking = nursery.start_command("stop", str(folder.path), output=tmp_path / "asked")
        assert nursery.wait(asking) == 0
        assert f"asked process {process} to stop" in (tmp_path / "asked").read_text()
    assert nursery.wait(process) == 0, output.read_text()
    lines = output.read_text().replace("\r", "\n").splitlines()
    assert lines[-1] == str(folder.result / "monster.safetensors") and Path(lines[-1]).is_file()
    outcome = folder.outcome
    assert outcome["stopped"] and outcome["steps"] == steps_done(folder) >= 3
    assert any(f"Stopped after step {outcome['steps']}" in line for line in lines)
    assert (folder.checkpoints / f"step-{outcome['steps']:06d}").is_dir()
    assert not list(folder.path.glob("request-*"))


def test_the_second_wish_interrupts(nursery, job, tmp_path):
    """In a step that takes long: what came before it is saved, as `test_train_loop` shows."""
    slow = replace(job, training=replace(job.training, accumulation=1024))
    folder = create_or_find(tmp_path, "monster", slow)
    output = tmp_path / "said"
    process = nursery.start_command("train", str(folder.path), "--device", "cpu", output=output)
    until(lambda: "training: 0 of 6 steps are done" in said(output), "the beginning")
    time.sleep(0.5)  # into the step
    os.kill(process, signal.SIGTERM)
    until(lambda: "Stopping after this step" in said(output), "the answer")
    os.kill(process, signal.SIGTERM)  # the same wish once more, as a launcher passes it on
    time.sleep(SAME_WISH + 0.1)
    assert nursery.ended(process) is None
    os.kill(process, signal.SIGTERM)
    assert nursery.wait(process) == 130, output.read_text()
    assert "Interrupted" in output.read_text()
    with folder.locked():
        assert folder.outcome is None


def test_save_writes_a_result_and_goes_on(nursery, job, tmp_path):
    folder = create_or_find(tmp_path, "monster", steps(job, LONG))
    process = nursery.start_command(
        "train", str(folder.path), "--device", "cpu", output=tmp_path / "said"
    )
    until(lambda: steps_done(folder) >= 1, "the first step")
    asking = nursery.start_command("save", str(folder.path), output=tmp_path / "asked")
    assert nursery.wait(asking) == 0
    until(lambda: folder.outcome is not None, "the result")
    saved = folder.outcome["steps"]
    assert learned(folder)
    until(lambda: steps_done(folder) > saved, "another step")
    Control(folder.path).ask("stop")
    assert nursery.wait(process) == 0
    assert folder.outcome["steps"] > saved


@pytest.mark.parametrize("how", ["is closed", "says stop"])
def test_a_standard_input_that_ends_stops_as_well(nursery, job, tmp_path, how):
    """As when the program that started it is killed."""
    folder = create_or_find(tmp_path, "monster", steps(job, LONG))
    pipe, output = tmp_path / "pipe", tmp_path / "said"
    os.mkfifo(pipe)
    command = ("train", str(folder.path), "--device", "cpu", "--progress", "json")
    process = nursery.start_command(*command, "--stop-with-stdin", output=output, input=pipe)
    with pipe.open("wb", buffering=0) as stream:
        until(lambda: steps_done(folder) >= 2, "the second step")
        if how == "says stop":
            stream.write(b"stop\n")
            assert nursery.wait(process) == 0, said(output)
    assert nursery.wait(process) == 0 if how == "is closed" else True, said(output)
    events = [json.loads(line) for line in said(output).splitlines() if line.startswith("{")]
    assert events[-1] == {"event": "done", "found": False}
    assert folder.outcome["stopped"] and folder.outcome["steps"] == steps_done(folder)


def test_nobody_to_ask(nursery, job, tmp_path):
    folder = create_or_find(tmp_path, "monster", job)
    asking = nursery.start_command("stop", str(folder.path), output=tmp_path / "asked")
    assert nursery.wait(asking) == 1
    assert "is not being trained" in (tmp_path / "asked").read_text()
    assert not list(folder.path.glob("request-*"))
    with pytest.raises(ValueError, match=r"unknown.*stop, save"):
        Control(folder.path).ask("dance")


class StopsAtOnce(QuietReport):
    def should_stop(self):
        return True


def test_a_stop_before_the_first_step_says_that_nothing_was_learned(job, pipelines, tmp_path):
    folder = create_or_find(tmp_path, "monster", job)
    with pytest.raises(NothingLearned, match="before the first step"):
        train(folder, pipelines, StopsAtOnce())
    assert folder.outcome is None
    prior = PriorSettings("a monster", count=2, steps=1, batch_size=1)
    folder = create_or_find(tmp_path, "monster", replace(job, prior=(prior,)))
    with pytest.raises(NothingLearned):
        train(folder, pipelines, StopsAtOnce())
    assert folder.outcome is None and not (folder.path / "log.jsonl").exists()
    assert len(list(tmp_path.glob("class_images/*/*.png"))) < 2, "it stopped while making them"


class StopsAfter(QuietReport):
    def __init__(self, step):
        self.step_to_stop, self.now = step, 0

    def step(self, step, *rest):
        self.now = step

    def should_stop(self):
        return self.now >= self.step_to_stop


def test_a_stop_while_it_is_prepared_to_go_on_hands_on_what_was_learned_before(
    job, pipelines, tmp_path
):
    folder = create_or_find(tmp_path, "monster", job)
    first = train(folder, pipelines, StopsAfter(2))
    assert (first.steps_done, first.stopped) == (2, True)
    kept = first.path.read_bytes()
    again = train(folder, pipelines, StopsAtOnce())
    assert (again.steps_done, again.stopped, again.found) == (2, True, False)
    assert again.path.read_bytes() == kept
    first.path.unlink()
    with pytest.raises(NothingLearned):
        train(folder, pipelines, StopsAtOnce())


def test_memory_that_really_runs_out(nursery, job, tmp_path):
    training = replace(job.training, batch_size=1024, resolution=64)
    folder = create_or_find(tmp_path, "monster", replace(job, training=training))
    output = tmp_path / "said"
    process = nursery.start_command(
        "train", str(folder.path), "--device", "cpu", output=output, memory=700 << 20
    )
    assert nursery.wait(process) == 1, output.read_text()
    assert "memory ran out in step 1" in said(output)
    assert "lower batch_size (now 1024)" in said(output)


# --- in a process of its own ----------------------------------------------------------------------


class Watch(QuietReport):
    """Remembers what it was told; `at` maps a step to what is done then."""

    def __init__(self, at=None):
        self.at = at or {}
        self.began, self.steps, self.samples, self.messages = None, [], [], []

    def started(self, total, resumed_at):
        self.began = resumed_at

    def step(self, step, *facts):
        self.steps.append((step, *facts))
        self.at.get(step, lambda: None)()

    def sample(self, step, images):
        assert all(image.size == (32, 32) for image in images)
        self.samples.append((step, len(images)))

    def message(self, text):
        self.messages.append(text)


class Killer(QuietReport):
    """Kills what this process has started, as the system does when memory runs out."""

    def should_stop(self):
        for child in psutil.Process().children():
            if "train" in child.cmdline():
                child.kill()
        return False


def test_apart_is_stopped_crashes_and_ends_with_the_same_bytes(job, pipelines, tmp_path):
    job = replace(steps(job, 30), watch=replace(job.watch, sample_every=15))
    here, apart = (create_or_find(tmp_path / place, "monster", job) for place in ("here", "apart"))
    told_here = Watch()
    assert not start(here, pipelines, told_here, HERE).found

    def press_stop():
        raise RuntimeError("the stop button")

    first = Watch({3: press_stop})
    with pytest.raises(RuntimeError, match="the stop button"):
        start(apart, pipelines, first, APART)
    kept = apart.outcome["steps"]
    assert apart.outcome["stopped"] and 3 <= kept == steps_done(apart) < 30

    with pytest.raises(TrainingCrashed, match=r"SIGKILL.*memory") as error:
        start(apart, pipelines, Killer(), APART)
    assert f"step-{kept:06d}" in str(error.value) and "it goes on from there" in str(error.value)

    second = Watch()
    result = start(apart, pipelines, second, APART)
    assert second.began == kept and not result.found and not result.stopped
    assert learned(apart) == learned(here)
    assert log_of(apart) == log_of(here)
    told = {facts[0]: facts[:5] for watch in (first, second) for facts in watch.steps}
    expected = {facts[0]: facts[:5] for facts in told_here.steps}
    assert {step: expected[step] for step in told} == told, "all but the time left"
    assert second.samples == told_here.samples == [(15, 1), (30, 1)]
    assert any(message.startswith("estimate:") for message in second.messages)
    assert start(apart, pipelines, second, APART).found


def test_a_place_that_is_none(job, pipelines, tmp_path):
    folder = create_or_find(tmp_path, "monster", job)
    with pytest.raises(ValueError, match="'there'"):
        start(folder, pipelines, None, "there")


# --- several processes ----------------------------------------------------------------------------


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Pair:
    """Two processes that train one folder together, over gloo on this machine."""

    def __init__(self, nursery, folder: RunFolder, where: Path) -> None:
        self.nursery = nursery
        self.outputs = [where / f"said by {rank}" for rank in range(2)]
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        arguments = ("train", str(folder.path), "--device", "cpu")
        self.processes = [
            nursery.start_command(
                *arguments, output=output, **common, RANK=str(rank), LOCAL_RANK=str(rank)
            )
            for rank, output in enumerate(self.outputs)
        ]

    @property
    def codes(self) -> list[int]:
        """How both ended; waits for that."""
        return [self.nursery.wait(process) for process in self.processes]

    @property
    def said(self) -> list[str]:
        return [said(output) for output in self.outputs]


def tensors(folder: RunFolder) -> torch.Tensor:
    from safetensors.torch import load_file

    file = load_file(folder.result / "monster.safetensors")
    return torch.cat([file[name].flatten().float() for name in sorted(file)])


@pytest.fixture(scope="module")
def pairs(job) -> TrainingJob:
    """Four pictures a step and four of the class, so that two processes have two of each."""
    prior = PriorSettings("a photo of a monster", count=2, steps=1, batch_size=1)
    training = replace(job.training, batch_size=4, validate_every=2)
    return replace(job, training=training, prior=(prior,))


@pytest.fixture(scope="module")
def alone(pairs, pipelines, tmp_path_factory) -> RunFolder:
    folder = create_or_find(tmp_path_factory.mktemp("alone"), "monster", pairs)
    train(folder, pipelines)
    return folder


def assert_as_alone(folder: RunFolder, alone: RunFolder) -> None:
    ours, theirs = log_of(folder), log_of(alone)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for name in ("loss", "smoothed", "gradient"):
        pair = torch.tensor([[line[name] for line in log] for log in (ours, theirs)])
        assert (pair[0] - pair[1]).abs().max() <= SUMMATION["log"] * pair[1].abs().max(), name
    difference = (tensors(folder) - tensors(alone)).norm() / tensors(alone).norm()
    assert difference <= SUMMATION["learned"], float(difference)


def test_two_processes_learn_what_one_learns(nursery, pairs, alone, tmp_path):
    folder = create_or_find(tmp_path, "monster", pairs)
    pair = Pair(nursery, folder, tmp_path)
    assert pair.codes == [0, 0], pair.said
    assert str(folder.result) in pair.said[0] and str(folder.result) not in pair.said[1]
    assert_as_alone(folder, alone)
    assert len(list(tmp_path.glob("class_images/*/*.png"))) == 2


def test_two_processes_start_from_the_same_directions(nursery, pairs, pipelines, tmp_path):
    eva = replace(pairs, prior=(), method_settings=replace(pairs.method_settings, start="eva"))
    alone = create_or_find(tmp_path / "alone", "monster", steps(eva, 2))
    train(alone, pipelines)
    folder = create_or_find(tmp_path, "monster", steps(eva, 2))
    pair = Pair(nursery, folder, tmp_path)
    assert pair.codes == [0, 0], pair.said
    assert_as_alone(folder, alone)


def test_a_run_goes_on_with_another_number_of_processes(nursery, pairs, alone, pipelines, tmp_path):
    folder = create_or_find(tmp_path, "monster", pairs)

    class Twice(Watch):
        def should_stop(self):
            return len(self.steps) == 2

    train(folder, pipelines, Twice())
    pair = Pair(nursery, folder, tmp_path)
    assert pair.codes == [0, 0], pair.said
    assert_as_alone(folder, alone)


def test_a_stop_that_the_second_hears_reaches_both(nursery, pairs, tmp_path):
    folder = create_or_find(tmp_path, "monster", steps(pairs, LONG))
    pair = Pair(nursery, folder, tmp_path)
    until(lambda: steps_done(folder) >= 3, "the third step")
    os.kill(pair.processes[1], signal.SIGTERM)
    assert pair.codes == [0, 0], pair.said
    assert folder.outcome["stopped"] and folder.outcome["steps"] == steps_done(folder)


def test_requests_reach_both(nursery, pairs, tmp_path):
    folder = create_or_find(tmp_path, "monster", steps(pairs, LONG))
    pair = Pair(nursery, folder, tmp_path)
    until(lambda: steps_done(folder) >= 1, "the first step")
    Control(folder.path).ask_running("save")
    until(lambda: folder.outcome is not None, "the result")
    until(lambda: steps_done(folder) > folder.outcome["steps"], "another step")
    Control(folder.path).ask_running("stop")
    assert pair.codes == [0, 0], pair.said


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_dies_ends_both_and_the_last_good_state_stays(nursery, pairs, tmp_path, rank):
    folder = create_or_find(tmp_path, "monster", steps(pairs, LONG))
    pair = Pair(nursery, folder, tmp_path)
    until(lambda: steps_done(folder) >= 3, "the third step")
    os.kill(pair.processes[rank], signal.SIGKILL)
    codes = pair.codes
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 1, pair.said
    kept = max(int(path.name[5:]) for path in folder.checkpoints.glob("step-*"))
    assert kept >= steps_done(folder) - (2 if rank == 0 else 1)


def test_a_batch_that_cannot_be_shared_says_so():
    assert list(Team(1, 2).share(4)) == [2, 3]
    with pytest.raises(ValueError, match=r"batch_size is 3.*multiple of 2"):
        Team(0, 2).share(3)


def test_accelerate_launches_it(pairs, alone, tmp_path):
    """As a user types it."""
    folder = create_or_find(tmp_path, "monster", pairs)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--main_process_port", free_port()]
    done = subprocess.run(
        [*launch, str(ROOT / "cli.py"), "train", str(folder.path), "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder.result / "monster.safetensors")]
    assert "2 processes share every batch" in done.stderr
    assert_as_alone(folder, alone)
