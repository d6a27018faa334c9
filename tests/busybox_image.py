"""When tests with a container can run; their image: `shem.devnet.image`."""

import shutil

import pytest

from shem.devnet.image import BUSYBOX


def requires_container() -> pytest.MarkDecorator:
    """Skip where bubblewrap or the tools for images are not installed."""
    needed = ("bwrap", "unshare", "unsquashfs", "mksquashfs")
    missing = [tool for tool in needed if shutil.which(tool) is None]
    missing += [] if BUSYBOX.exists() else ["busybox-static"]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")
