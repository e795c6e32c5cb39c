"""Many processes, many learners. Only commands may import from here; run imports `shards`, which needs the core."""
