"""A whole network on this machine: real processes on loopback, for the demo and the tests.

Reading order: `compose` (starts and stops the network), `processes` (one child; what a killed child
left behind), `package` (serves the payload), `program` (the requestor's program, a process of its
own that uses nothing but `import shem`), `running` (that program as a process), `story` (runs the
GAP-17 scenarios and measures), `demo` and `command` (the command line), `telling` (the terminal).
"""
