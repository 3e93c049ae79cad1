"""``make bench``: every benchmark, its table on stdout."""

from __future__ import annotations

import sys

from tests.bench import bench_breaker, bench_cost, bench_flood, bench_ring, bench_rules

#: What the benchmark of rules alone understands; the others are for both: --events, --recording, --rules, --cache.
_RULES_ONLY = ("--record", "--generated")

if __name__ == "__main__":
    both = [each for each in sys.argv[1:] if each not in _RULES_ONLY]
    sys.exit(bench_rules.main() or bench_ring.main(both) or bench_cost.main() or bench_breaker.main()
             or bench_flood.main())
