"""The benchmark: what sstpfarm costs on this machine, measured, and set against the machine's own limit.

`make bench` runs all of it, `make bench QUICK=1` a short version. docs/performance.md explains the figures.
"""
