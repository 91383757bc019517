"""That the benchmarks run and print what they say; how fast anything is, no test asks."""
