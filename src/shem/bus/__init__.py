"""The service bus: addresses, calls, streams, topics; in the process, over sockets and the net."""
