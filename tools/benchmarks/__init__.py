"""What tools/benchmark.py measures: how it takes times, the cases, and plain programs to compare with."""
