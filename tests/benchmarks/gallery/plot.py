"""Latency against the number of templates, as a picture."""

from pathlib import Path
from typing import Any

DASHES = {-1.0: "-", 0.35: "--", 0.5: ":"}


def draw(results: dict[str, Any], path: Path) -> None:
    """One line for each contender: single probes on the most threads that were measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    machine, rows = results["machine"], results["rows"]
    threads = max(row["threads"] for row in rows)
    spectrum = rows[0]["spectrum"]
    lines: dict[tuple[str, float], list[tuple[int, float]]] = {}
    for row in rows:
        if (row["threads"], row["batch"], row["spectrum"]) == (threads, 1, spectrum):
            key = row["contender"], row["threshold"]
            lines.setdefault(key, []).append((row["n"], row["p50_ms"]))
    figure, axes = pyplot.subplots(figsize=(8, 5.5), dpi=150)
    for (name, threshold), points in lines.items():
        muster = name == "muster"
        title = f"{name}, threshold {threshold:g}" if muster and threshold > 0 else name
        x, y = zip(*sorted(points), strict=True)
        axes.plot(
            x,
            y,
            DASHES[threshold],
            marker="o",
            markersize=4,
            color="black" if muster else None,
            linewidth=2 if muster else 1.2,
            label=title,
        )
    axes.set(xscale="log", yscale="log", xlabel="templates", ylabel="one probe, ms (median)")
    axes.set_title(f"1:N search, K = 10, {threads} threads, {machine['processor']}", fontsize=10)
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
