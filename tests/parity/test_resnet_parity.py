"""The PyTorch peer of policies that train ResNets computes what this package computes, forwards and backwards."""

import numpy as np
import pytest

from imf_jax.benchmark import resnet
from imf_jax.config import AttnResConfig, PolicyConfig, ResNetEncoderConfig

# PyTorch itself scripts some of its derivatives when the first forward-mode one is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated:DeprecationWarning")

CONFIG = PolicyConfig(
    head=AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1),
    encoder=ResNetEncoderConfig(("top", "front"), image_size=72, crop_size=66, keypoints=3, width=16),
)


def test_plans_agree() -> None:
    policy = resnet.make_policy("a policy", CONFIG)
    inputs = resnet.make_inputs(policy, 2)
    ours = resnet.plan(policy, inputs)[0]()
    theirs = resnet.make_peer(policy).plan(inputs.images, inputs.state, inputs.head.noise)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_losses_and_gradients_agree() -> None:
    policy = resnet.make_policy("a policy", CONFIG)
    inputs = resnet.make_inputs(policy, 2)
    loss, gradient = resnet.training_step(policy, inputs)[0]()
    peer = resnet.make_peer(policy)
    assert peer.train_step(inputs.images, inputs.state, *inputs.head[:4]) == pytest.approx(float(loss), rel=1e-5)
    network = gradient["conditioning"]["encoder"]["network"]
    backbone = network["backbone"]
    for n, theirs in enumerate(peer.cameras):
        pairs = [
            (backbone["stem"], theirs.stem),
            *(
                (backbone["blocks"][k][name], getattr(theirs.blocks[k], name))
                for k in range(8)
                for name in ("conv1", "conv2")
            ),
            (network["keypoint_maps"], theirs.maps),
        ]
        for ours, convolution in pairs:
            expected = convolution.weight.grad.permute(2, 3, 1, 0).numpy()
            found = np.asarray(ours["kernel"][...][n])
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
