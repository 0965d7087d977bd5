"""What holds for all tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, those in `end_to_end`: begun last, they would run alone."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)
