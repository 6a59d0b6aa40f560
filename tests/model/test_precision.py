import pytest
import torch

from sadm_ray.model.precision import has_bfloat16, has_wrong_gradients


@pytest.mark.parametrize(
    ("amx", "avx512", "fast", "wrong"),
    [(True, True, True, False), (False, True, False, True), (False, False, False, False)],
)
def test_bfloat16_is_for_cpus_whose_gradients_are_right(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, fast: bool, wrong: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    cpu = torch.device("cpu")
    assert (has_bfloat16(cpu), has_wrong_gradients(cpu)) == (fast, wrong)
