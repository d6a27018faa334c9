"""The `container` runtime: a squashfs image in a sandbox of Linux namespaces, by bubblewrap.

A runtime binary like any other: our ExeUnit and Golem's own call it alike
(docs/protocol/activity-exeunit.md §9). Reading order: `image` (what is in an image), `unpack` (its
files, once per provider), `deployment` (what one activity has of it), `limits` (control groups),
`namespaces` (what the sandbox sees), `way_out` (how it reaches more, where that is granted),
`keeper` (the first process inside, which runs the programs).

What a program can do: use the files of its image (changes stay in the work directory), its volumes,
loopback, and the memory, processors and processes it was given. It has no network but that proxy on
loopback, no privileges, no other user namespace, and sees no process and no file of the provider.
"""
