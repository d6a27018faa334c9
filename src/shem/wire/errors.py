"""The one error of all codecs: what arrived is not what the protocol says."""

from shem.kernel.errors import PeerError


class WireError(PeerError):
    """Malformed bytes from outside; never a crash."""

    code = "malformed"
