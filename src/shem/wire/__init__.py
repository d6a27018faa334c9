"""Wire codecs: bytes to frozen dataclasses and back; pure, every malformed input a `WireError`.

`errors`; `protobuf` (proto3's primitives). The net: `relay` with `relay_codec` (control packets),
`challenge` (their proof of work), `forward` (everything else), `tcp` (segments inside). The bus:
`gsb` (packets), `flexbuffers` with `flex_types`, `flex_reader` and `flex_writer` (payloads).
"""
