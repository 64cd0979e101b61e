"""YaRN against transformers."""

import pytest
import torch

from longcat.config import RopeScalingConfig
from longcat.ops.rotary import rotary_angles, softmax_sharpening

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("dim", "theta", "changes"),
    [
        (64, 1e6, {"factor": 120.0, "original_max_position_embeddings": 8192}),
        (64, 5e6, {"factor": 8.0, "original_max_position_embeddings": 32768, "beta_fast": 16.0, "beta_slow": 2.0}),
        (8, 1e4, {"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.3}),
    ],
)
def test_yarn_equals_transformers(dim, theta, changes):
    from transformers import LongcatFlashConfig
    from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashRotaryEmbedding

    scaling = RopeScalingConfig(**changes)
    rope = {"rope_type": "yarn", "rope_theta": theta, **scaling.model_dump(exclude_none=True)}
    theirs = LongcatFlashRotaryEmbedding(LongcatFlashConfig(head_dim=dim, qk_rope_head_dim=dim, rope_parameters=rope))
    positions = torch.arange(0, 3000, 7)
    cos, sin = theirs(torch.zeros(1), positions[None])
    ours = rotary_angles(positions, dim, theta, scaling)
    torch.testing.assert_close(ours[0], cos[0, :, : dim // 2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[1], sin[0, :, : dim // 2], atol=1e-4, rtol=1e-4)


def test_without_scaling_nothing_is_sharpened():
    assert softmax_sharpening(None) == 1.0
    assert (
        softmax_sharpening(RopeScalingConfig(factor=4.0, original_max_position_embeddings=64, mscale_all_dim=0)) == 1.0
    )
