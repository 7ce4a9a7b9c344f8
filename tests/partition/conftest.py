from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="session")
def alexnet() -> Path:
    """AlexNet on 227x227 without groups: 62,367,776 weights."""
    return EXAMPLES / "alexnet.csv"


@pytest.fixture(scope="session")
def alexnet_grouped() -> Path:
    """AlexNet with the two groups of Krizhevsky et al. (2012): 60,954,656 weights."""
    return EXAMPLES / "alexnet_grouped.csv"
