"""What most tests of whole clusters use: a small model, and inputs with the answers that it gives."""

from pathlib import Path

import pytest

from tests.support import onnx_models
from tests.support.load import Case, Oracle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the name "small"."""
    return onnx_models.mlp(tmp_path_factory.mktemp("model") / "small.onnx", (64, 128, 10))


@pytest.fixture(scope="module")
def cases(model: Path) -> list[Case]:
    """Few enough for any cache."""
    return Oracle(model).random_cases(300, seed=1)
