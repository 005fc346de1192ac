import pytest
import torch

from csc_nets.evaluation.sae_lens_adapter import register_with_sae_lens, to_sae_lens
from csc_nets.layers import PursuitSAE

sae_lens = pytest.importorskip("sae_lens", reason="sae-lens")


@pytest.mark.parametrize("options", [{"pursuit": "omp", "steps": 2}, {"pursuit": None, "encoder": "batch_top_k"}])
def test_their_tools_take_ours(options, tmp_path):
    torch.manual_seed(0)
    ours, x = PursuitSAE(16, 40, k=4, **options).eval(), torch.randn(30, 16) + 1
    ours.start_from(x)
    theirs = to_sae_lens(ours)
    assert isinstance(theirs, sae_lens.SAE) and theirs.cfg.d_sae == 40
    torch.testing.assert_close(theirs.encode(x), ours(x))
    torch.testing.assert_close(theirs(x), ours.reconstruct(x))
    torch.testing.assert_close(ours(x) @ theirs.W_dec + theirs.b_dec, theirs(x), rtol=1e-4, atol=1e-5)
    output, cache = theirs.run_with_cache(x)
    torch.testing.assert_close(cache["hook_sae_acts_post"], ours(x))
    theirs.save_model(tmp_path)
    again = sae_lens.SAE.load_from_disk(tmp_path)
    torch.testing.assert_close(again(x), output)


def test_it_registers_once():
    assert register_with_sae_lens() == register_with_sae_lens()
