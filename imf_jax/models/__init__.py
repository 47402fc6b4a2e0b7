"""The IMF-AttnRes policy: transformer, objective and sampler, conditioning, normalisation."""
