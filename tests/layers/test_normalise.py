"""uint8 images to network inputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.normalise import normalise


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_normalise(dtype, tolerance):
    image = np.arange(256, dtype=np.uint8)[:, None] + np.zeros((1, 3), np.uint8)
    image = image.reshape(1, 16, 16, 3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    y = normalise(image, mean, std, dtype)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(y, np.float64), (image / 255 - mean) / std, rtol=tolerance, atol=tolerance
    )
