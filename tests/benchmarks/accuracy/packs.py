"""Every installed pack that makes templates, on the same pictures."""

from models.packs.store import installed, installed_names
from tests.benchmarks.accuracy.bench import Bench
from tests.benchmarks.accuracy.shots import shot_row
from tests.benchmarks.tables import Row

AIMS = {"edgeface-xs": "≤ 3.5 %"}


def embedding_packs() -> list[str]:
    """The installed packs with an embedder, the default first."""
    names = [
        name
        for name in installed_names()
        if (pack := installed(name)) is not None and pack.pack.model_id is not None
    ]
    return sorted(names, key=lambda name: (name != "compact", name))


def pack_rows(bench: Bench) -> list[Row]:
    """One picture enrolled and one shot, then three and three fused."""
    rows: list[Row] = []
    for pack in bench.packs:
        for pictures, shots in ((1, 1), (3, 3)):
            aim = AIMS.get(pack, "") if (pictures, shots) == (1, 1) else "≤ 0.5 %"
            row = shot_row(bench, pictures, shots, pack)
            if row is not None:
                rows.append({**row, "aim": aim})
    return rows
