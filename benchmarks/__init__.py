"""How fast smmap is, beside a bare mmap and what else one might use: see docs/performance.md, or `make bench`.

    python -m benchmarks [PART OF A ROW'S NAME OR SUBJECT]...

Not part of the package: nothing in `smmap` knows of it.
"""
