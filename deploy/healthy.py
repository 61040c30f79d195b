"""Is the process behind this page well? `healthy.py URL [METRIC]`: exits 0 when it answers, and METRIC is above 0.

For health checks of containers: it needs nothing but Python. The token of /metrics is taken from the environment.
"""

import os
import sys
import urllib.request


def value_of(metric: str, page: str) -> float:
    """The sum of a metric's lines in Prometheus' text format; 0.0 where there is none."""
    lines = [line.split() for line in page.splitlines() if line.partition("{")[0].split(" ")[0] == metric]
    return sum(float(words[-1]) for words in lines)


def main() -> int:
    """0, or 1 with one line that says why not."""
    url, metric = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    token = os.environ.get("EMBEDMILL_METRICS_TOKEN", "")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  # the image's own
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
            page = reply.read().decode()
    except (OSError, ValueError) as err:
        print(f"{url}: {err}", file=sys.stderr)  # noqa: T201
        return 1
    if metric and value_of(metric, page) <= 0:
        print(f"{url}: {metric} is 0", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
