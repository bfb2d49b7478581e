"""Interoperation tests: Debian's sstpc and pppd, in a virtual machine with kernel PPP, against our server."""
