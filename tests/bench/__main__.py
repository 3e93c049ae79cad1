"""``make bench``: every benchmark, its table on stdout."""

from __future__ import annotations

import sys

from tests.bench import bench_breaker, bench_cost, bench_ring, bench_rules

if __name__ == "__main__":
    sys.exit(bench_rules.main() or bench_ring.main([]) or bench_cost.main() or bench_breaker.main())
