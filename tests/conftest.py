"""What all tests share: the slow mark, and hypothesis without a clock or chance."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("jensen", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("jensen")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line("markers", "slow: long statistical runs; leave them out with -m 'not slow'")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The models here are tiny: more threads only wait for one another, very long where the processors are shared."""
    torch.set_num_threads(1)
