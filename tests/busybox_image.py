"""When tests with a container can run; their image: `shem.devnet.image`."""

import pytest

from shem.devnet import image


def requires_container() -> pytest.MarkDecorator:
    """Skip where bubblewrap or the tools for images are not installed."""
    missing = image.obstacle()
    return pytest.mark.skipif(missing is not None, reason=missing or "")
