"""Charts of a calibration, as paths for an SVG of 640 × 300."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from match_server.calibration.calibration import Calibration, fmr_for_fpir, fpir_for_fmr
from match_server.schemas.calibrations import CalibrationFile
from match_server.schemas.collections import OperatingPointView

WIDTH, HEIGHT = 640.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 40.0
_HISTOGRAM_BINS = 80
_SIZES = [10 ** (step / 8) for step in range(8, 49)]  # 10 to 1,000,000
_FPIRS = (0.1, 0.01, 0.001)
_FIXED_FMRS = (1e-3, 1e-4, 1e-5)
_DET_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4)


@dataclass(frozen=True, slots=True)
class Tick:
    place: float  # pixels
    label: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A path, and its classes in the style sheet."""

    kind: str  # genuine, impostor, beyond; area, line
    path: str
    label: str | None = None  # of the legend


@dataclass(frozen=True, slots=True)
class Chart:
    """Shapes in drawing order, ticks, and a mark at the collection's operating point."""

    title: str
    x_label: str
    shapes: Sequence[Shape]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    mark_x: float | None = None
    mark_y: float | None = None
    mark_label: str = ""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Converts values to pixels; with `log` on a logarithmic scale."""

    low: float
    high: float
    start: float
    end: float
    log: bool = field(default=False)

    def __call__(self, value: float) -> float:
        value, low, high = (
            (math.log10(number) if self.log else number) for number in (value, self.low, self.high)
        )
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self.start + share * (self.end - self.start), 1)


def charts_of(file: CalibrationFile, point: OperatingPointView) -> list[Chart]:
    """Returns the charts of an adopted calibration, with the operating point marked."""
    return [_similarities(file, point), _errors(file, point), _thresholds(file, point)]


def evaluation_charts(file: CalibrationFile) -> list[Chart]:
    """Returns the charts of an evaluation, which has no gallery yet."""
    return [_similarities(file), _errors(file), _det(file), _fpir_by_size(file)]


def _similarities(file: CalibrationFile, point: OperatingPointView | None = None) -> Chart:
    curves = file.curves
    x = _x(curves.thresholds[0], 1.0)
    groups = {
        "impostor": _rebinned(curves.thresholds, curves.impostor),
        "genuine": _rebinned(curves.thresholds, curves.genuine),
    }
    highest = max(share for bars in groups.values() for _, _, share in bars)
    y = _y(0.0, highest)
    names = {"impostor": "two persons", "genuine": "one person"}
    shapes = [
        Shape(f"{kind} area", _bars(bars, x, y), names[kind]) for kind, bars in groups.items()
    ]
    return Chart(
        title="Similarity of pictures",
        x_label="similarity (cosine)",
        shapes=shapes,
        x_ticks=_linear_ticks(x),
        y_ticks=[],
        mark_x=None if point is None else x(point.threshold),
        mark_label="" if point is None else f"threshold {point.threshold:.3f}",
    )


def _errors(file: CalibrationFile, point: OperatingPointView | None = None) -> Chart:
    curves, tail = file.curves, file.tail
    x = _x(curves.thresholds[0], 1.0)
    y = _y(1e-7, 1.0, log=True)
    thresholds = curves.thresholds
    beyond = [tail.similarity + step * (1.0 - tail.similarity) / 40 for step in range(41)]
    fmrs = [
        tail.fmr * math.exp(-(threshold - tail.similarity) / tail.scale) for threshold in beyond
    ]
    shapes = [
        Shape("impostor band", _band(thresholds, curves.fmr_low, curves.fmr_high, x, y)),
        Shape("genuine band", _band(thresholds, curves.fnmr_low, curves.fnmr_high, x, y)),
        Shape("impostor line", _line(thresholds, curves.fmr, x, y), "strangers matched (FMR)"),
        Shape("genuine line", _line(thresholds, curves.fnmr, x, y), "mates missed (FNMR)"),
        Shape("beyond line", _line(beyond, fmrs, x, y), "FMR, extrapolated"),
    ]
    return Chart(
        title="Errors of one comparison",
        x_label="threshold (cosine); shaded: 95 % intervals over persons",
        shapes=shapes,
        x_ticks=_linear_ticks(x),
        y_ticks=[Tick(y(10.0**power), _power(power)) for power in range(-7, 1)],
        mark_x=None if point is None else x(point.threshold),
        mark_label="" if point is None else f"threshold {point.threshold:.3f}",
    )


def _thresholds(file: CalibrationFile, point: OperatingPointView) -> Chart:
    calibration = Calibration(file)
    x = _x(_SIZES[0], _SIZES[-1], log=True)
    y = _y(0.0, 1.0)
    shapes = []
    for fpir, kind in zip(_FPIRS, ("first", "second", "third"), strict=True):
        fmrs = [fmr_for_fpir(fpir, size) for size in _SIZES]
        thresholds = [calibration.threshold_for(fmr).similarity for fmr in fmrs]
        label = f"{fpir:.1%} of strangers named".replace(".0%", "%")
        shapes.append(Shape(f"{kind} line", _line(_SIZES, thresholds, x, y), label))
    here = max(point.templates * point.probes_per_track, _SIZES[0])
    return Chart(
        title="The threshold that a gallery needs",
        x_label="templates enrolled (x searches a track)",
        shapes=shapes,
        x_ticks=[Tick(x(10.0**power), _power(power)) for power in range(1, 7)],
        y_ticks=[Tick(y(step / 5), f"{step / 5:.1f}") for step in range(6)],
        mark_x=x(here),
        mark_y=y(point.threshold),
        mark_label=f"{point.templates:,} templates",
    )


def _det(file: CalibrationFile) -> Chart:
    """Both errors on normal-deviate scales (Martin et al., "The DET curve", 1997)."""
    deviate = NormalDist().inv_cdf
    lowest, highest = deviate(_DET_TICKS[0]), deviate(_DET_TICKS[-1])
    x, y = _x(lowest, highest), _y(lowest, highest)
    curves = file.curves
    points = [
        (x(deviate(fmr)), y(deviate(fnmr)))
        for fmr, fnmr in zip(curves.fmr, curves.fnmr, strict=True)
        if _DET_TICKS[0] <= fmr <= _DET_TICKS[-1] and _DET_TICKS[0] <= fnmr <= _DET_TICKS[-1]
    ]
    ticks = [(deviate(rate), f"{100 * rate:g}%") for rate in _DET_TICKS]
    return Chart(
        title="DET curve",
        x_label="strangers matched (FMR); upwards: mates missed (FNMR)",
        shapes=[
            Shape("genuine line", _joined(points), "one comparison"),
            Shape("beyond line", f"M{x(lowest)} {y(lowest)}L{x(highest)} {y(highest)}", "equal"),
        ],
        x_ticks=[Tick(x(place), label) for place, label in ticks],
        y_ticks=[Tick(y(place), label) for place, label in ticks],
    )


def _fpir_by_size(file: CalibrationFile) -> Chart:
    """FPIR of some fixed thresholds by the size of the gallery."""
    calibration = Calibration(file)
    x, y = _x(_SIZES[0], _SIZES[-1], log=True), _y(1e-4, 1.0, log=True)
    shapes = []
    for fmr, kind in zip(_FIXED_FMRS, ("first", "second", "third"), strict=True):
        threshold = calibration.threshold_for(fmr).similarity
        rates = [fpir_for_fmr(calibration.fmr_at(threshold), size) for size in _SIZES]
        shapes.append(Shape(f"{kind} line", _line(_SIZES, rates, x, y), f"from {threshold:.3f}"))
    return Chart(
        title="Strangers named as the gallery grows, by fixed threshold (FPIR)",
        x_label="templates enrolled",
        shapes=shapes,
        x_ticks=[Tick(x(10.0**power), _power(power)) for power in range(1, 7)],
        y_ticks=[Tick(y(10.0**power), f"{100 * 10.0**power:g}%") for power in range(-4, 1)],
    )


def _x(low: float, high: float, *, log: bool = False) -> _Scale:
    return _Scale(low, high, _LEFT, WIDTH - _RIGHT, log)


def _y(low: float, high: float, *, log: bool = False) -> _Scale:
    return _Scale(low, high, HEIGHT - _BOTTOM, _TOP, log)


def _linear_ticks(scale: _Scale) -> list[Tick]:
    steps = range(math.ceil(scale.low * 5), 6)
    return [Tick(scale(step / 5), f"{step / 5:.1f}") for step in steps]


def _rebinned(at: Sequence[float], counts: Sequence[int]) -> list[tuple[float, float, float]]:
    """Returns start, end and share of at most _HISTOGRAM_BINS bars."""
    total = max(sum(counts), 1)
    width = max(1, math.ceil(len(counts) / _HISTOGRAM_BINS))
    return [
        (at[start], at[min(start + width, len(at) - 1)], sum(counts[start : start + width]) / total)
        for start in range(0, len(counts), width)
    ]


def _bars(bars: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> str:
    return "".join(
        f"M{x(start)} {y(0.0)}V{y(share)}H{x(end)}V{y(0.0)}Z" for start, end, share in bars if share
    )


def _line(at: Sequence[float], rates: Sequence[float], x: _Scale, y: _Scale) -> str:
    """Returns a line through the points within the chart, which rates of 0 are not."""
    points = zip(at, rates, strict=True)
    return _joined([(x(value), y(rate)) for value, rate in points if rate > y.low])


def _band(
    at: Sequence[float], low: Sequence[float], high: Sequence[float], x: _Scale, y: _Scale
) -> str:
    there = [(x(value), y(max(rate, y.low))) for value, rate in zip(at, high, strict=True)]
    back = [(x(value), y(max(rate, y.low))) for value, rate in zip(at, low, strict=True)]
    return _joined([*there, *reversed(back)]) + "Z"


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{px} {py}" for px, py in points) if points else ""


def _power(power: int) -> str:
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if power == 0 else f"10{raised}"
