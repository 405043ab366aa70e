"""Pictures through a detector: to the size it works at, through, and back to their own."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .detector import Detector, Places, Weights
from .detectors import detector_named
from .places import locate
from .undisturbed import quiet_import, seeded

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ..loading import Pipelines

MAX_SIDE = 8192
"""Longest side in pixels that a picture is enlarged to."""
MAX_RESOLUTION = 4096


def preprocess(
    pipelines: Pipelines,
    pictures: Sequence[Image],
    detector: str,
    settings: Any = None,
    *,
    resolution: int = 0,
    places: Places | None = None,
    on_picture: Callable[[int, int], None] | None = None,
) -> list[Image]:
    """The control picture of each picture, RGB and of the same size. The same call gives the same
    pictures, and nothing outside changes: no random state, no setting of a library.

    `settings`: of the detector's own class; None: its defaults. `resolution`: shorter side in
    pixels at which the detector works; 0: the picture's own size. Where the detector wants
    multiples of 64 the picture is continued at its right and lower edge. `on_picture`: told after
    each picture how many are done of how many; what it raises ends the work.

    Raises:
        ValueError: no such detector, no picture, settings of another one, or a package or weights
            that are not there: one line that names them and the way out.
    """
    chosen = detector_named(detector)
    settings = chosen.settings() if settings is None else settings
    _check(chosen, settings, pictures, resolution)
    done = []
    with _live(pipelines, chosen, settings, places or Places()) as live:
        for picture in pictures:
            with seeded(getattr(settings, "seed", 0), pipelines.device):
                done.append(_through(chosen, live, picture, settings, resolution))
            if on_picture is not None:
                on_picture(len(done), len(pictures))
    return done


def weights_versions(
    detector: str, settings: Any = None, places: Places | None = None
) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of the weights: different when a file was replaced. Nothing is
    downloaded; empty when they are not there, or there are none.
    """
    chosen = detector_named(detector)
    settings = chosen.settings() if settings is None else settings
    here = Places((places or Places()).folders)
    try:
        return _versions(_files(chosen, settings, here))
    except ValueError:
        return ()


def _check(detector: Detector, settings: Any, pictures: Sequence[Image], resolution: int) -> None:
    if not isinstance(settings, detector.settings):
        raise ValueError(
            f"{type(settings).__name__} are not the settings of {detector.title}; "
            f"give it {detector.settings.__name__}"
        )
    if not pictures:
        raise ValueError(f"no picture for {detector.title}; connect one")
    if not 0 <= resolution <= MAX_RESOLUTION:
        raise ValueError(
            f"resolution {resolution} cannot be used; use 0 (the picture's own size) to "
            f"{MAX_RESOLUTION}"
        )


@contextmanager
def _live(pipelines: Pipelines, detector: Detector, settings: Any, places: Places) -> Iterator[Any]:
    """What the detector works with, loaded and on the device; None where it needs nothing."""
    _require_package(detector)
    load = detector.load
    if load is None:
        yield None
        return
    files = _files(detector, settings, places)
    versions = _versions(files)
    key = ("detector", load.__qualname__, getattr(settings, "model", ""), *versions)
    size = sum(size for _, size, _ in versions)
    with pipelines.open_helper(key, lambda: _loaded(detector, settings, files), size) as live:
        yield live


def _loaded(detector: Detector, settings: Any, files: Sequence[Path]) -> Any:
    """Networks start with random numbers, which are not taken from those of the process."""
    try:
        with seeded(0, "cpu"), quiet_import():
            return load(settings, files) if (load := detector.load) else None
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = ", ".join(map(str, files))
        raise ValueError(
            f"{detector.title} cannot be loaded from {where}: {reason}; copy or download it again, "
            "or choose others in its settings"
        ) from error


def _require_package(detector: Detector) -> None:
    if not detector.package:
        return
    name = re.split(r"[<>=!~\[ ]", detector.package)[0]
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        raise ValueError(
            f"{detector.title} needs the package {name}, which is not installed: "
            f"pip install {detector.package!r}"
        )


def _files(detector: Detector, settings: Any, places: Places) -> list[Path]:
    needed: Sequence[Weights] = detector.weights(settings)
    return locate(detector, getattr(settings, "weights", ""), needed, places)


def _versions(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    files = [
        file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    stats = [(str(file), file.stat()) for file in files]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _through(
    detector: Detector, live: Any, picture: Image, settings: Any, resolution: int
) -> Image:
    import numpy as np
    from PIL import Image

    source = np.asarray(picture.convert("RGB"))
    scaled = _scaled(source, resolution)
    height, width = scaled.shape[:2]
    answer = detector.detect(live, _continued(scaled, detector), settings)
    drawn = _three_channels(np.asarray(answer))[:height, :width]
    return Image.fromarray(_back(drawn, source.shape[:2], detector.flat))


def _scaled(picture: np.ndarray, resolution: int) -> np.ndarray:
    """With its shorter side `resolution` pixels long, as far as the longer one allows."""
    import cv2

    height, width = picture.shape[:2]
    factor = resolution / min(height, width) if resolution else 1.0
    factor = min(factor, max(1.0, MAX_SIDE / max(height, width)))
    if factor == 1.0:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # As controlnet-aux scales.
    how = cv2.INTER_LANCZOS4 if factor > 1 else cv2.INTER_AREA
    return cv2.resize(picture, size, interpolation=how)


def _continued(picture: np.ndarray, detector: Detector) -> np.ndarray:
    """With its last row and column repeated until both sides are as the detector wants them."""
    import numpy as np

    height, width = (max(side, detector.least) for side in picture.shape[:2])
    height, width = height + -height % detector.grid, width + -width % detector.grid
    rest = (0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)
    return np.ascontiguousarray(np.pad(picture, rest, mode="edge"))


def _three_channels(answer: np.ndarray) -> np.ndarray:
    import numpy as np

    assert answer.dtype == np.uint8, answer.dtype
    if answer.ndim == 2:
        answer = answer[:, :, None]
    return answer if answer.shape[2] == 3 else answer.repeat(3, axis=2)


def _back(drawn: np.ndarray, size: tuple[int, ...], flat: bool) -> np.ndarray:
    import cv2
    import numpy as np

    height, width = size
    if drawn.shape[:2] == (height, width):
        return np.ascontiguousarray(drawn)
    how = cv2.INTER_NEAREST if flat else cv2.INTER_LINEAR
    return cv2.resize(drawn, (width, height), interpolation=how)
