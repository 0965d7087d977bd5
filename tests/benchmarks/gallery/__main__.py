"""`./dev bench gallery`: the gallery's search beside its peers, in one interleaved run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.gallery.measure import quiet_libraries

quiet_libraries()

import click  # noqa: E402

PACKAGES = {
    "faiss": "faiss-cpu",
    "usearch": "usearch",
    "hnswlib": "hnswlib",
    "matplotlib": "matplotlib",
}


def install(peers: tuple[str, ...], plot: bool) -> None:
    """Installs missing peers: they are not dependencies of the product."""
    sections = {"matplotlib"} if plot else set()
    sections |= {name for name in PACKAGES if any(peer.startswith(name) for peer in peers)}
    missing = [PACKAGES[name] for name in sections if importlib.util.find_spec(name) is None]
    if missing:
        print("installing", *missing, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=True)


@click.command()
@click.option("--n", "sizes", default="10000,100000,1000000", help="Templates, by commas.")
@click.option("--peers", default="", help="By commas; `none`; default: the usual ones.")
@click.option("--threads", default="1,2", help="Threads of a search, by commas.")
@click.option("--batches", default="1,8,32,128", help="Probes of a search, by commas.")
@click.option("--spectrum", default="middling", help="isotropic, middling or decaying.")
@click.option("--probes", "probe_count", default=256, help="Different probes, half of them mated.")
@click.option("--repetitions", default=15, help="Of each cell.")
@click.option("--quick", is_flag=True, help="Single probes on the most threads only.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw latency against N (PNG).")
def main(
    sizes: str,
    peers: str,
    threads: str,
    batches: str,
    spectrum: str,
    probe_count: int,
    repetitions: int,
    quick: bool,
    report: Path | None,
    plot: Path | None,
) -> None:
    """Measure the gallery and its peers on the same made-up people, taken in turns."""
    usual = ("numpy-f32", "faiss-flat", "faiss-sq8", "usearch-f32", "usearch-i8")
    chosen = tuple(peer for peer in peers.split(",") if peer and peer != "none")
    names = chosen or (() if peers == "none" else usual)
    install(names, plot is not None)
    from tests.benchmarks.gallery.run import Plan, run

    plan = Plan(
        sizes=_numbers(sizes),
        peers=names,
        threads=_numbers(threads)[-1:] if quick else _numbers(threads),
        batches=(1,) if quick else _numbers(batches),
        spectrum=spectrum,
        probes=probe_count,
        repetitions=repetitions,
        quick=quick,
    )
    results = run(plan)
    if report is not None:
        report.write_text(json.dumps(results, indent=1) + "\n")
    if plot is not None:
        from tests.benchmarks.gallery.plot import draw

        draw(results, plot)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
