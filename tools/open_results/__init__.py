"""Parts of `tools/open_benchmark.py`: what is run, how it is run and kept, and what is written about it."""
