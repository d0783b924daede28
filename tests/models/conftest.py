"""What tests of real models share."""

from pathlib import Path

import pytest

from tests.support import minilm


@pytest.fixture(scope="session")
def minilm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence model, written once."""
    return minilm.build(tmp_path_factory.mktemp("minilm") / "minilm.onnx")
