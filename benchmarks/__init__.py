"""The speed of smmap compared with a bare mmap and other alternatives: see docs/performance.md, or `make bench`.

    python -m benchmarks [PART OF A ROW'S NAME OR SUBJECT]...

Not part of the package: nothing in `smmap` uses it.
"""
