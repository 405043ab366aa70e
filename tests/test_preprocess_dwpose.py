"""DWPose: what its two networks say becomes poses. The networks here say what they were told to."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.pipelines.preprocess import Places, preprocess
from likeness.pipelines.preprocess.dwpose import people, points, window, with_neck

from .preprocess_cases import detector, photograph, pixels

SIDE, WIDTH, HEIGHT = 128, 72, 96
"""Of what the two networks of these tests see; the real ones see 640, and 288 by 384 pixels."""


def yolox(*found):
    """What YOLOX says of these boxes: (left, top, right, bottom, sureness, kind)."""
    cells = [(x, y, stride) for stride in (8, 16, 32) for y, x in np.ndindex(*[SIDE // stride] * 2)]
    output = np.zeros((len(cells), 85), np.float32)
    for left, top, right, bottom, sure, kind in found:
        x, y = (left + right) / 2, (top + bottom) / 2
        row = next(
            row
            for row, (column, line, stride) in enumerate(cells)
            if column == x // stride and line == y // stride and not output[row].any()
        )
        column, line, stride = cells[row]
        output[row, :2] = x / stride - column, y / stride - line
        output[row, 2:4] = np.log([(right - left) / stride, (bottom - top) / stride])
        output[row, 4], output[row, 5 + kind] = sure, 1
    return output


def curves(places, sure):
    """What the pose network says of points at `places`, in pixels of what it sees."""
    along_x = np.zeros((len(places), WIDTH * 2), np.float32)
    along_y = np.zeros((len(places), HEIGHT * 2), np.float32)
    for row, (x, y) in enumerate(places):
        along_x[row, int(x * 2)] = along_y[row, int(y * 2)] = sure
    return along_x, along_y


def test_people_are_found_once_and_nothing_else():
    output = yolox(
        (10, 20, 60, 120, 0.9, 0),
        (11, 21, 61, 119, 0.8, 0),  # the same one
        (70, 30, 110, 100, 0.7, 0),
        (20, 20, 40, 40, 0.9, 16),  # a dog
        (80, 80, 120, 120, 0.2, 0),  # hardly
    )
    found = people(output, SIDE, 0.3)
    np.testing.assert_allclose(found, [[10, 20, 60, 120], [70, 30, 110, 100]], atol=1e-3)
    assert len(people(output, SIDE, 0.95)) == 0


def test_the_window_holds_the_box_in_the_networks_shape():
    centre, size = window(np.array([10, 20, 30, 80]), WIDTH, HEIGHT)
    assert centre.tolist() == [20, 50]
    assert size[1] == 60 * 1.25 and size[0] == pytest.approx(size[1] * WIDTH / HEIGHT)
    _, wide = window(np.array([0, 0, 100, 10]), WIDTH, HEIGHT)
    assert wide[0] == 125 and wide[1] == pytest.approx(125 * HEIGHT / WIDTH)


def test_points_are_read_to_half_a_pixel():
    places = [[3.5, 10.0], [71.5, 95.5]]
    found, sure = points(*curves(places, 0.6))
    assert found.tolist() == places and sure.tolist() == pytest.approx([0.6, 0.6])


def test_order_is_openposes_with_a_neck():
    places = np.arange(133)[None, :, None] * np.ones((1, 1, 2))
    found, _ = with_neck(places, np.ones((1, 133)))
    assert found.shape == (1, 134, 2)
    # nose, neck, right shoulder, elbow, wrist, left shoulder, elbow, wrist, right hip, ...
    assert found[0, :18, 0].tolist() == [
        *(0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
    ]
    assert (found[0, 24:, 0] == np.arange(23, 133)).all(), "face and hands"
    hidden = np.ones((1, 133))
    hidden[0, 5] = 0.1
    assert with_neck(places, hidden)[1][0, 1] == 0, "no neck without both shoulders"


def constant(path, entry, *outputs):
    """An ONNX file that always says the same."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    nodes = [
        make.make_node("Constant", [], [f"out{i}"], value=onnx.numpy_helper.from_array(out))
        for i, out in enumerate(outputs)
    ]
    kind = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        "said",
        [make.make_tensor_value_info("input", kind, entry)],
        [make.make_tensor_value_info(f"out{i}", kind, o.shape) for i, o in enumerate(outputs)],
    )
    opsets = [make.make_opsetid("", 17)]
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=8), path)


def test_from_files_to_drawn_poses(pipelines, tmp_path):
    pytest.importorskip("onnxruntime")
    source = photograph("astronaut", 128)
    spots = np.stack([np.linspace(5, WIDTH - 5, 133), np.linspace(HEIGHT - 5, 5, 133)], axis=1)
    box = (32, 16, 96, 112, 0.9, 0)
    constant(tmp_path / "yolox_l.onnx", [1, 3, SIDE, SIDE], yolox(box)[None])
    along_x, along_y = curves(spots, 0.8)
    constant(tmp_path / "dw-ll_ucoco_384.onnx", [1, 3, HEIGHT, WIDTH], along_x[None], along_y[None])

    def run(**chosen):
        settings = detector("dwpose").settings(**chosen)
        made = preprocess(pipelines, [source], "dwpose", settings, places=Places((tmp_path,)))
        return pixels(made[0])

    made = run()
    assert made.shape == (128, 128, 3) and made.any()
    assert np.array_equal(made, run())
    parts = [run(**{n: n == name for n in ("body", "hand", "face")}) for name in ("body", "hand")]
    assert parts[0].any() and parts[1].any() and not np.array_equal(*parts)
    assert not run(body=False, hand=False, face=False).any()
    face = run(body=False, hand=False)
    assert set(np.unique(face)) == {0, 255}, "white points"
    ys, xs = np.nonzero(face[..., 0])
    centre, size = window(np.array(box[:4]), WIDTH, HEIGHT)
    expected = spots[23:91] / (WIDTH / size[0]) + centre - size / 2
    assert abs(xs.mean() - expected[:, 0].mean()) < 1.5 > abs(ys.mean() - expected[:, 1].mean())
