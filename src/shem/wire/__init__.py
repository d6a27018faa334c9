"""Wire codecs: bytes to frozen dataclasses and back; pure, every malformed input a `WireError`."""
