"""A real sentence model: three inputs of ids, lengths that vary, a mask that is heeded."""

from pathlib import Path

from tests.support import minilm
from tests.worker_app.doctor.test_faults import answers, faults, named


def test_a_real_sentence_model_batches_and_may_be_filled_up(tmp_path: Path) -> None:
    path = minilm.build(tmp_path / "minilm.onnx")
    chart = answers(path)
    path.unlink()
    assert faults(chart) == []
    assert chart.runs
    assert chart.batches
    assert named(chart, "padding").ok is True
    assert chart.proposed["padding"] == {
        "dimension": "sequence", "buckets": [16, 32, 64, 128, 256, 512], "mask": "attention_mask",
    }  # fmt: skip
    assert chart.proposed["output"] == "sentence_embedding"
    assert named(chart, "values").ok is True
