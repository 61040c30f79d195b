"""Embeds texts with minilm while workers, Redis and coordinators are killed: `embedmill chaos`, on a real model.

    python -m bench.chaos_minilm [--seed N]

Prints one JSON line: faults, figures, what the reader and the oracle found, and the verdict of `embedmill verify`.
The oracle cannot foretell the vectors of a model; all else it checks as ever.
"""

import argparse
import json
import random
import sys

from chaos.mill import MillOptions
from chaos.report import report_json
from chaos.run import ChaosOptions, run_chaos
from chaos.schedule import Group

COUNTS = {Group.KILLS: 20, Group.RESTARTS: 3, Group.COORDINATORS: 1}


def main(seed: int) -> None:
    """One run, from a fresh folder to the verdict."""
    mill = MillOptions(location="", model="minilm", images=False, rows=2500, workers=2, shard_seconds=4, lease_s=5)
    outcome = run_chaos(
        ChaosOptions(counts=COUNTS, seed=seed, mill=mill), say=lambda line: print(line, file=sys.stderr)
    )
    print(json.dumps(report_json(outcome)))
    sys.exit(0 if outcome.ok else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    main(parser.parse_args().seed)
