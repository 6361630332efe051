"""CUDA versions that go together, and those that do not."""

import pytest

from xectrain.cli.cuda import CudaVersions, cuda_versions
from xectrain.cli.doctor import examine


@pytest.mark.parametrize(
    ("torch", "onnxruntime", "dali", "driver", "complaints"),
    [
        ("13.0", "13.0", "12.0", "13.1", []),
        ("12.6", "12.4", "12.0", "12.6", []),
        (None, None, None, None, []),
        (None, "13.0", "12.0", None, []),
        (None, None, "12.0", "13.0", ["torch is a CPU build"]),
        ("13.0", "13.0", "12.0", "12.6", ["torch needs CUDA 13.0: update the driver", "onnxruntime needs CUDA 13.0"]),
        ("12.6", "13.0", "12.0", "13.0", ["onnxruntime needs the CUDA 13.0 libraries, but torch"]),
    ],
)
def test_what_does_not_go_together_is_said(
    torch: str | None, onnxruntime: str | None, dali: str | None, driver: str | None, complaints: list[str]
) -> None:
    found = CudaVersions(torch, onnxruntime, dali, driver).complaints()
    assert len(found) == len(complaints)
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True))


def test_the_doctor_tells_them() -> None:
    (finding,) = [finding for finding in examine() if finding.topic == "CUDA"]
    assert finding.value == cuda_versions().told()
    assert finding.value.startswith("torch ")
