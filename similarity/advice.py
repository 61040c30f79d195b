"""Advice: which threshold gives about how many pairs, for whoever asked for too many; from random pairs."""

from similarity.measure import Measure
from similarity.scores import LEAST_BEYOND, best_random
from similarity.vectors import VectorSource


def threshold_advice(most: int, all_pairs: int, left: VectorSource, right: VectorSource, measure: Measure) -> str:
    """Thresholds that of `all_pairs` leave about `most`, a tenth and a hundredth of them; "" where nobody can tell."""
    best, pairs = best_random(min(1.0, most / max(all_pairs, 1)), left, right, measure, seed=0)
    told = []
    for wanted in (most, most // 10, most // 100):
        place = int(wanted / max(all_pairs, 1) * pairs)
        if LEAST_BEYOND <= place <= len(best):
            told.append(f"{best[place - 1]:.4g} gives about {wanted:,}")
    return f"; by {pairs:,} random pairs, --threshold {', '.join(told)} pairs" if told else ""
