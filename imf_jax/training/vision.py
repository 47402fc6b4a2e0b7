"""What policies that see need in training: their encoder's identity, and pictures or cached features to train on."""

from typing import Any

import numpy as np

from imf_jax.config import LewmEncoderConfig, PolicyConfig
from imf_jax.models.lewm import LewmEncoder, LewmSizes, config_dict
from imf_jax.models.policy import Policy
from imf_jax.models.vit import VitSizes


def encoder_identity(policy: Policy) -> dict[str, Any] | None:
    """Sizes and `weights_sha256` of a policy's frozen encoder, as plain JSON types; None if it has none."""
    encoder = policy.frozen_encoder
    return None if encoder is None else config_dict(encoder.sizes, encoder.fingerprint)


def unloaded_encoder(config: PolicyConfig, identity: dict[str, Any]) -> LewmEncoder:
    """A frozen encoder of that identity, all zeros until weights are put in."""
    assert isinstance(config.encoder, LewmEncoderConfig)
    values = identity["sizes"]
    sizes = LewmSizes(**{**values, "vit": VitSizes(**values["vit"])})
    zeros = {name: np.zeros(shape, np.float32) for name, shape in sizes.weight_shapes().items()}
    return LewmEncoder(zeros, sizes, fusion=config.encoder.fusion, fingerprint=identity["weights_sha256"])
