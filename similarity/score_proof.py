"""The proof of scores: each pair of a published panel is scored anew from the vectors of its two rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import EmbedmillError
from schemas.join import JoinRecord, PanelFooter
from similarity import exact
from similarity.exact import ExactRows
from similarity.measure import Measure
from similarity.planned_side import planned_side
from similarity.scores import OF_NEIGHBOURS, base_of
from similarity.vectors import VectorSource
from storage.parquet import ID


@dataclass(frozen=True, slots=True)
class ScoreProof:
    """Both sides of a join, as they were when it was planned, and its measure."""

    left: VectorSource
    right: VectorSource
    measure: Measure

    @classmethod
    def of(cls, record: JoinRecord) -> "ScoreProof | str":
        """The proof of the pairs of `record`, or why there can be none."""
        try:
            left, right = planned_side(record.spec.left), planned_side(record.spec.right)
        except EmbedmillError as err:
            return str(err)
        assert record.spec.score not in OF_NEIGHBOURS  # a funnel's score needs no neighbours
        return cls(left, right, base_of(record.spec.score, left, right))

    def problem(self, table: pa.Table, footer: PanelFooter) -> str:
        """What is wrong with the scores of a panel; "" where all have the bits that its vectors give."""
        left_ids = self.left.columns([ID], np.arange(footer.first, footer.first + footer.rows))[ID]
        at = np.asarray(pc.index_in(table["left_id"], left_ids.combine_chunks()).fill_null(-1))
        rows = self._right_rows(table["right_id"])
        if (at < 0).any() or (rows < 0).any():
            return "it names an id that its sides do not have"
        scores = self._scores(at, rows, footer)
        wrong = scores != np.asarray(table["score"], np.float32)
        return f"{int(wrong.sum())} of its scores are not those of its vectors" if wrong.any() else ""

    def _right_rows(self, ids: pa.ChunkedArray) -> np.ndarray:
        """int64 (n,): the right rows of these ids; -1 for none."""
        known = pc.unique(ids)
        found = np.full(len(known), -1, np.int64)
        for first, some in self.right.ids():
            place = np.asarray(pc.index_in(some, known).fill_null(-1))
            found[place[place >= 0]] = first + np.flatnonzero(place >= 0)
        rows: np.ndarray = found[np.asarray(pc.index_in(ids, known))]
        return rows

    def _scores(self, at: np.ndarray, rows: np.ndarray, footer: PanelFooter) -> np.ndarray:
        left = ExactRows(self.left.vectors(footer.first, footer.rows), self.measure.left_mean, self.measure.unit)
        terms, add = self.measure.left(footer.first, footer.rows), self.measure.right(0, self.right.rows)
        scores, order = np.empty(len(at), np.float32), np.argsort(rows, kind="stable")
        for block in self.right.blocks():
            begin, end = np.searchsorted(rows[order], [block.first, block.first + len(block)])
            mine = order[begin:end]
            right = ExactRows(block.vectors, self.measure.right_mean, self.measure.unit)
            c = exact.products(left, at[mine], right, rows[mine] - block.first)
            scores[mine] = self.measure.score(c, terms.of(at[mine]), add[rows[mine]])
        return scores
