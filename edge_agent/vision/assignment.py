"""Optimal assignment for the few faces of one frame."""

import numpy as np
from numpy.typing import NDArray


def assign(cost: NDArray[np.float64], possible: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The cheapest set of the most pairs (row, column); each row and column is used once.

    Only pairs that are `possible` (n, m) are used, with their `cost` (n, m). Where the cheapest
    columns of all rows differ, as in nearly every frame, they are the optimum. Otherwise it is
    computed by shortest augmenting paths (Hungarian method in the form of Jonker and Volgenant,
    1987), O(n² m).
    """
    rows = np.flatnonzero(possible.any(axis=1))
    if not len(rows):
        return []
    allowed = np.where(possible[rows], cost[rows], np.inf)
    nearest = allowed.argmin(axis=1)
    if len(set(nearest.tolist())) == len(rows):
        return list(zip(rows.tolist(), nearest.tolist(), strict=True))
    columns = np.flatnonzero(possible[rows].any(axis=0))
    part = allowed[:, columns]
    finite = part[np.isfinite(part)]
    # More than any set of possible pairs costs: an impossible pair is only used without another.
    forbidden = (float(np.abs(finite).max()) + 1.0) * 2 * (len(rows) + len(columns))
    filled = np.where(np.isfinite(part), part, forbidden)
    chosen = _shortest_paths(filled) if len(rows) <= len(columns) else _transposed(filled)
    return sorted(
        (int(rows[row]), int(columns[column]))
        for row, column in chosen
        if np.isfinite(part[row, column])
    )


def _transposed(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    return [(row, column) for column, row in _shortest_paths(np.ascontiguousarray(cost.T))]


def _shortest_paths(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The cheapest complete assignment of n rows to m ≥ n columns; all costs finite."""
    n, m = cost.shape
    row_price = np.zeros(n)
    column_price = np.zeros(m)
    row_of = np.full(m, -1)  # the row that each column is assigned to
    for start in range(n):
        shortest = np.full(m, np.inf)
        came_from = np.full(m, -1)  # the previous column on the path; -1: `start`
        done = np.zeros(m, dtype=bool)
        row, reached, column = start, 0.0, -1
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            better = ~done & (through < shortest)
            shortest[better] = through[better]
            came_from[better] = column
            column = int(np.where(done, np.inf, shortest).argmin())
            reached = float(shortest[column])
            if row_of[column] < 0:
                break
            done[column] = True
            row = int(row_of[column])
        row_price[start] += reached
        visited = np.flatnonzero(done)
        row_price[row_of[visited]] += reached - shortest[visited]
        column_price[visited] -= reached - shortest[visited]
        while column >= 0:
            before = int(came_from[column])
            row_of[column] = start if before < 0 else row_of[before]
            column = before
    return [(int(row_of[column]), column) for column in range(m) if row_of[column] >= 0]
