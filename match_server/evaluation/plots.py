"""Plots of a calibration as PNG files, drawn with matplotlib."""

import importlib.util
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.calibration import Calibration, fmr_for_fpir
from match_server.schemas.calibrations import CalibrationFile
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GENUINE, _IMPOSTOR, _GRAY = "#0f766e", "#b45309", "#5d6a63"
_INCHES = (7.2, 4.6)
_DPI = 120
_HISTOGRAM_BINS = 100
_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4)
_FPIRS = (0.1, 0.01, 0.001)
_SIZES = np.logspace(1, 6, 51)

Floats = NDArray[np.float64]


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_plots(file: CalibrationFile, folder: Path) -> list[Path]:
    """Writes histograms, error rates, DET curve and thresholds by gallery size into `folder`.

    Raises ConfigurationError when matplotlib is not installed. It is imported here, because the
    import takes a second.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "plots are drawn with matplotlib, which is not installed: pip install "
            "'muster[evaluate]'"
        ) from error
    drawn = {
        "similarities.png": _similarities,
        "errors.png": _errors,
        "det.png": _det,
        "thresholds.png": _thresholds,
    }
    written = []
    for name, draw in drawn.items():
        figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, file)
        path = folder / name
        figure.savefig(path, metadata={"Software": None})
        written.append(path)
    return written


def _similarities(axes: "Axes", file: CalibrationFile) -> None:
    curves, data = file.curves, file.data
    places = np.array(curves.thresholds)
    bins = np.linspace(places[0], places[-1] + 1e-9, _HISTOGRAM_BINS + 1).tolist()
    for counts, colour, name, total in (
        (curves.impostor, _IMPOSTOR, "two persons", data.impostor_pairs),
        (curves.genuine, _GENUINE, "one person", data.genuine_pairs),
    ):
        shares = np.array(counts) / total
        label = f"{name}: {total:,} comparisons"
        axes.hist(places, bins=bins, weights=shares, color=colour, alpha=0.6, label=label)
    axes.set(xlabel="similarity (cosine)", ylabel="share of comparisons", title="Similarities")
    axes.legend(frameon=False)


def _errors(axes: "Axes", file: CalibrationFile) -> None:
    curves = file.curves
    at = np.array(curves.thresholds)
    lowest = min(0.1 / file.data.impostor_pairs, 0.1 / file.data.genuine_pairs)
    for rate, low, high, colour, name in (
        (curves.fmr, curves.fmr_low, curves.fmr_high, _IMPOSTOR, "FMR"),
        (curves.fnmr, curves.fnmr_low, curves.fnmr_high, _GENUINE, "FNMR"),
    ):
        axes.fill_between(at, np.maximum(low, lowest), high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(at, np.where(np.array(rate) > 0, rate, np.nan), color=colour, label=name)
    tail = file.tail
    beyond = np.linspace(tail.similarity, 1.0, 50)
    axes.plot(
        beyond,
        tail.fmr * np.exp(-(beyond - tail.similarity) / tail.scale),
        color=_IMPOSTOR,
        linestyle=":",
        label="FMR, extrapolated",
    )
    axes.set_yscale("log")
    axes.set(
        xlabel="threshold (cosine)",
        ylabel="rate",
        ylim=(lowest, 1.2),
        xlim=(float(at[0]), float(at[-1])),
        title="Errors of comparisons, with 95 % intervals over persons",
    )
    axes.legend(frameon=False)


def _det(axes: "Axes", file: CalibrationFile) -> None:
    """Both errors on normal-deviate scales (Martin et al., "The DET curve", 1997)."""
    fmr, fnmr = np.array(file.curves.fmr), np.array(file.curves.fnmr)
    inside = (fmr > 0) & (fmr < 1) & (fnmr > 0) & (fnmr < 1)
    axes.plot(_deviates(fmr[inside]), _deviates(fnmr[inside]), color=_GENUINE, marker=".")
    axes.plot(_deviates(np.array(_TICKS)), _deviates(np.array(_TICKS)), color=_GRAY, linestyle=":")
    places = _deviates(np.array(_TICKS))
    labels = [f"{100 * tick:g}%" for tick in _TICKS]
    axes.set_xticks(places, labels)
    axes.set_yticks(places, labels)
    axes.set(xlabel="FMR", ylabel="FNMR", title="DET curve")
    if not inside.any():
        axes.text(
            0.5, 0.8, "no threshold has errors of both kinds", ha="center", transform=axes.transAxes
        )


def _thresholds(axes: "Axes", file: CalibrationFile) -> None:
    calibration = Calibration(file)
    for fpir, style in zip(_FPIRS, ("-", "--", "-."), strict=True):
        fmrs = [fmr_for_fpir(fpir, float(size)) for size in _SIZES]
        thresholds = [calibration.threshold_for(fmr) for fmr in fmrs]
        similarity = np.array([threshold.similarity for threshold in thresholds])
        beyond = np.array([threshold.extrapolated for threshold in thresholds])
        label = f"FPIR {fpir:.1%}"
        axes.plot(_SIZES, similarity, color=_GRAY, linestyle=style, alpha=0.5, label=label)
        axes.plot(_SIZES, np.where(beyond, np.nan, similarity), color=_GENUINE, linewidth=2.5)
    axes.set_xscale("log")
    axes.set(
        xlabel="templates in the gallery",
        ylabel="threshold (cosine)",
        title="Threshold by gallery size (green: measured, gray: extrapolated)",
    )
    axes.legend(frameon=False)


def _deviates(rates: Floats) -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf(float(rate)) for rate in rates])
