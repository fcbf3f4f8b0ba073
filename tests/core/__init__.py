"""The engine against its promises: windows, cursors, buffers, eviction, ledger, errors, files, lifetimes, threads."""
