"""The goals of the engine, each with the two compared numbers."""

from tests.benchmarks.gallery.measure import Row

Goal = dict[str, object]


def goals(
    rows: list[Row],
    costs: list[dict[str, float]],
    exactness: list[dict[str, object]],
    n: int,
) -> list[Goal]:
    """Yields the goals with measurements, at the largest size by default."""
    made: list[Goal] = []
    threads = max(row.threads for row in rows)
    base = next(row.spectrum for row in rows)

    def measured(name: str, batch: int, threshold: float, size: int, used: int) -> Row | None:
        cell_key = (name, batch, threshold, size, used, base)
        for row in rows:
            cell = (row.contender, row.batch, row.threshold, row.n, row.threads, row.spectrum)
            if cell == cell_key:
                return row
        return None

    def faster(threshold: float, peer: str, least: float, batch: int = 1) -> None:
        mine = measured("muster", batch, threshold, n, threads)
        other = measured(peer, batch, -1.0, n, threads)
        if mine and other:
            ratio = other.p50_ms / mine.p50_ms
            title = f"{batch} probe{'s' * (batch > 1)}, threshold {threshold:g}: {peer} / muster"
            made.append(_goal(title, ratio, ">=", least, f"{other.p50_ms} / {mine.p50_ms} ms"))

    for threshold, flat, numpy in ((-1.0, 7, 4), (0.35, 11, 6), (0.5, 20, 12)):
        faster(threshold, "faiss-flat", flat)
        faster(threshold, "numpy-f32", numpy)
    faster(-1.0, "numpy-f32", 7, batch=32)
    mine = measured("muster", 1, -1.0, n, threads)
    if mine and mine.floor_multiple is not None:
        # All of the codes are 512 bytes and two lengths; a search needs half of them.
        whole = mine.floor_multiple * 258 / 516
        made.append(_goal("one probe / reading all codes", whole, "<=", 1.25, ""))
        made.append(_goal("one probe / reading 4 bits", mine.floor_multiple, "<=", 1.25, "extra"))
    if mine := measured("muster", 1, 0.35, n, threads):
        made.append(_goal("one probe at threshold 0.35, ms", mine.p50_ms, "<=", 10, ""))
    if mine := measured("muster", 1, -1.0, 100_000, 1):
        made.append(_goal("100,000 templates on one thread, ms", mine.p50_ms, "<=", 4, ""))
    if exactness:
        wrong = sum(int(str(each["mismatches"])) for each in exactness)
        lists = sum(int(str(each["lists"])) for each in exactness)
        made.append(_goal("lists that are not the oracle's", wrong, "<=", 0, f"of {lists}"))
    for cost in costs:
        if cost["n"] == n:
            made += _upkeep_goals(cost)
    return made


def _upkeep_goals(cost: dict[str, float]) -> list[Goal]:
    limits = (
        ("add_all_per_s", ">=", 300_000),
        ("add_by_10000_per_s", ">=", 300_000),
        ("add_one_p99_ms", "<=", 1),
        ("remove_one_p99_ms", "<=", 1),
        ("open_to_first_search_s", "<=", 0.3),
        ("shared_resident_bytes_per_template", "<=", 600),
        ("private_bytes_per_template", "<=", 16),
        ("disk_bytes_per_template", "<=", 1700),
    )
    return [_goal(name, cost[name], sense, bound, "") for name, sense, bound in limits]


def _goal(title: str, value: float, sense: str, bound: float, numbers: str) -> Goal:
    reached = value >= bound if sense == ">=" else value <= bound
    return {
        "figure": title,
        "measured": round(value, 3),
        "wanted": f"{sense} {bound:g}",
        "reached": "yes" if reached else "NO",
        "numbers": numbers,
    }
