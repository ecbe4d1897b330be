"""Which numbers are computed in where nobody said."""

import pytest
import torch

from cifar_lit import precision
from cifar_lit.precision import choose_precision


@pytest.mark.parametrize(
    ("gpu", "native", "cpu", "accelerator", "expected"),
    [
        (True, True, False, "auto", "bf16-mixed"),
        (True, False, False, "auto", "16-mixed"),
        (True, True, False, "cpu", "32-true"),
        (True, False, True, "cpu", "bf16-mixed"),
        (False, False, True, "auto", "bf16-mixed"),
        (False, False, False, "auto", "32-true"),
    ],
)
def test_the_fastest_that_is_safe(
    gpu: bool, native: bool, cpu: bool, accelerator: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: cpu)
    chosen, reason = choose_precision(accelerator)
    assert chosen == expected
    assert reason


def test_of_an_unknown_accelerator_nothing_is_claimed() -> None:
    assert choose_precision("tpu") == ("32-true", "what tpu computes fast in is not known here")


def test_apple_gpus_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_precision("auto")[0] == "32-true"


@pytest.mark.parametrize(("bf16", "amx", "expected"), [(True, False, True), (False, True, True), (False, False, False)])
def test_emulation_on_an_x86_does_not_count(
    bf16: bool, amx: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision._cpu_has_bfloat16() is expected
