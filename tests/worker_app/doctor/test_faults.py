"""Each planted fault is found and named, and the settings that make the best of it are proposed."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from inference_site.lib.record import Padding, Record
from tests.support import faulty_models, onnx_models, onnx_types
from worker_app.doctor.child import Examination
from worker_app.doctor.report import Chart, Finding
from worker_app.providers import CPU

Builder = Callable[[Path], Path]
LONG_S = 100_000.0  # no machine is so slow that less is looked at


def answers(path: Path, record: Record | None = None) -> Chart:
    """What is found of its answers, in this process."""
    chart = Chart(file=str(path), name="m", record=record or Record(), limit_s=LONG_S)
    sent: list[bytes] = []
    examination = Examination(chart, sent.append)
    examination.answers()
    examination.finish()
    assert msgspec.json.decode(sent[-1], type=Chart) == chart  # it all travels
    return chart


def named(chart: Chart, name: str) -> Finding:
    found = [finding for finding in chart.findings if finding.name == name]
    assert len(found) == 1, chart.findings
    return found[0]


def faults(chart: Chart) -> list[str]:
    return [finding.name for finding in chart.findings if finding.ok is False]


@pytest.mark.parametrize(
    "build",
    [
        faulty_models.softmax_over_the_batch,
        faulty_models.normalised_over_the_batch,
        faulty_models.quantised_over_the_batch,
    ],
)
def test_a_model_that_mixes_rows(build: Builder, tmp_path: Path) -> None:
    chart = answers(build(tmp_path / "m.onnx"))
    assert faults(chart) == ["batching"]
    assert "mixes rows" in named(chart, "batching").detail
    assert "the largest difference is" in named(chart, "batching").detail
    assert "is allowed" in named(chart, "batching").detail
    assert "first axis" in named(chart, "batching").fix
    assert (chart.batches, chart.proposed["batches"], chart.runs) == (False, False, True)
    assert "depends on the rows beside it" in chart.reasons["batches"]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (faulty_models.reshaped_to_one_row, "its shapes promise batches, but 2 rows together fail"),
        (faulty_models.openly_reshaped_to_one_row, "its inputs promise batches, but 2 rows together fail"),
        (faulty_models.flattened_batch, "2 rows together fail: output 'output' has shape [1, 8]"),
    ],
)
def test_a_model_that_claims_a_batch_and_fails_with_two_rows(build: Builder, said: str, tmp_path: Path) -> None:
    chart = answers(build(tmp_path / "m.onnx"))
    assert faults(chart) == ["batching"]
    assert said in named(chart, "batching").detail
    assert (chart.batches, chart.proposed["batches"], chart.runs) == (False, False, True)


def test_a_model_that_is_not_deterministic(tmp_path: Path) -> None:
    chart = answers(faulty_models.noisy(tmp_path / "m.onnx"))
    assert faults(chart) == ["determinism"]
    assert "answered otherwise" in named(chart, "determinism").detail
    assert "evaluation mode" in named(chart, "determinism").fix
    assert named(chart, "batching").ok is None
    assert (chart.proposed["cached"], chart.proposed["batches"], chart.runs) == (False, False, True)


def test_a_model_that_answers_nan_to_ordinary_inputs(tmp_path: Path) -> None:
    chart = answers(faulty_models.not_a_number(tmp_path / "m.onnx"))
    assert faults(chart) == ["values"]
    assert named(chart, "values").detail.startswith("output 'output': NaN or infinity for ordinary inputs (zeros, ")


def test_a_model_that_takes_no_zeros_can_be_served_all_the_same(tmp_path: Path) -> None:
    path = faulty_models.words(tmp_path / "m.onnx")
    chart = answers(path)
    assert (faults(chart), chart.runs) == ([], True)
    runs = [finding for finding in chart.findings if finding.name == "run"]
    assert [finding.ok for finding in runs] == [True, None]
    assert "does not run on zeros" in runs[1].detail
    assert named(chart, "values").detail == "finite for random inputs"
    chart = answers(path, Record(warm_up=({"text": (1, 1)},)))
    assert (faults(chart), chart.runs) == (["run"], False)


def test_a_model_that_cuda_opens_and_does_not_run_is_examined_on_the_cpu(tmp_path: Path, no_cudnn: str) -> None:
    path = onnx_types.pooled(tmp_path / "m.onnx", size=20)
    chart = answers(path)
    assert faults(chart) == ["cuda"]
    assert "runs it on the CPU: Conv needs cuDNN" in named(chart, "cuda").detail
    assert "cuDNN 9" in named(chart, "cuda").fix
    assert (chart.runs, chart.batches, chart.on_cpu) == (True, True, True)
    # In the processes that come after, too.
    examination = Examination(chart, lambda _: None)
    examination.sizes()
    examination.serving()
    assert faults(chart) == ["cuda"]
    assert list(chart.providers) == [CPU]
    assert named(chart, "engine").ok is True


def test_a_model_that_runs_neither_on_cuda_nor_on_the_cpu(tmp_path: Path, no_cudnn: str) -> None:
    chart = answers(onnx_types.pooled(tmp_path / "m.onnx", size=600))
    assert (faults(chart), chart.runs) == (["run"], False)


def test_nan_for_some_inputs_alone_is_only_worth_knowing(tmp_path: Path) -> None:
    chart = answers(onnx_models.nan(tmp_path / "m.onnx"))
    assert faults(chart) == []
    assert named(chart, "values").ok is None
    assert "numbers around 0" in named(chart, "values").detail
    assert named(chart, "batching").ok is True


def test_a_model_that_does_not_heed_its_mask(tmp_path: Path) -> None:
    chart = answers(faulty_models.sentence(tmp_path / "m.onnx", heeds_mask=False))
    assert faults(chart) == ["padding"]
    assert "does not heed its mask" in named(chart, "padding").detail
    assert "'attention_mask'" in named(chart, "padding").detail
    assert "padding" not in chart.proposed
    assert chart.batches


def test_lengths_that_change_answers_when_filled_up_and_no_mask_to_say_so(tmp_path: Path) -> None:
    path = faulty_models.sentence(tmp_path / "m.onnx", heeds_mask=False, masked_input=False)
    chart = answers(path)
    assert faults(chart) == []
    assert named(chart, "padding").ok is None
    assert "no input named like a mask" in named(chart, "padding").detail
    assert "padding" not in chart.proposed
    # The same is a fault once its record says that it is filled up.
    chart = answers(path, Record(padding=Padding(dimension="sequence", buckets=(16, 32))))
    assert faults(chart) == ["padding"]
    assert "remove padding from its record" in named(chart, "padding").fix


def corrupt(path: Path) -> None:
    path.write_bytes(onnx_models.linear(path).read_bytes()[:-40])


def without_its_weights(path: Path) -> None:
    faulty_models.external(path)
    path.with_suffix(".weights").unlink()


def with_half_its_weights(path: Path) -> None:
    faulty_models.external(path)
    path.with_suffix(".weights").write_bytes(b"abc")


@pytest.mark.parametrize(
    ("spoil", "detail", "fix"),
    [
        (lambda path: None, "there is no file at", "name an .onnx file"),
        (lambda path: path.mkdir(), "is a directory", "name the .onnx file in it"),
        (lambda path: path.write_bytes(b""), "is empty", "export it again"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "begins with b'<html>", "error page"),
        (lambda path: path.write_bytes(b"PK\3\4 a PyTorch file"), "is no ONNX model", "PyTorch"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "pointer", "git lfs pull"),
        (corrupt, "truncated or corrupt", "compare its size or checksum"),
        (lambda path: path.write_bytes(bytes(range(200))), "truncated or corrupt", "copy or export it again"),
        (without_its_weights, "m.weights, which is not there", "copy that file beside it"),
        (with_half_its_weights, "cut off: 3 bytes, too few for 'weights'", "did not finish"),
        (lambda path: faulty_models.stamped(path, opset=99), "needs opset 99", "older opset"),
        (lambda path: faulty_models.stamped(path, ir_version=99), "has IR version 99", "model.ir_version = "),
        (lambda path: faulty_models.stamped(path, operator="Nonsense"), "operator Nonsense", "standard operators"),
        (lambda path: faulty_models.stamped(path, operator="my.ops:Relu"), "operator my.ops:Relu", "custom operators"),
    ],
)
def test_a_file_that_cannot_be_loaded(spoil: Callable[[Path], object], detail: str, fix: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    spoil(path)
    chart = answers(path)
    assert faults(chart) == ["file"]
    assert detail in named(chart, "file").detail
    assert fix in named(chart, "file").fix
    assert "ONNXRuntimeError" not in named(chart, "file").detail
    assert not chart.runs
    assert chart.proposed == {}


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (Record(output="logits"), "no output 'logits'"),
        (Record(padding=Padding(dimension="sequence", buckets=(8,))), "'sequence'"),
        (Record(warm_up=({"pixels": (1, 4)},)), "'pixels'"),
    ],
)
def test_a_record_that_names_what_the_model_does_not_have(record: Record, detail: str, tmp_path: Path) -> None:
    chart = answers(onnx_models.linear(tmp_path / "m.onnx"), record)
    assert faults(chart) == ["record"]
    assert detail in named(chart, "record").detail
    assert not chart.runs
