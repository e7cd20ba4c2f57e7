"""What all tests share: the slow mark, and hypothesis without a clock or chance."""

import pytest
from hypothesis import settings

settings.register_profile("jensen", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("jensen")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line("markers", "slow: long statistical runs; leave them out with -m 'not slow'")
