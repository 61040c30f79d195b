"""A run of texts: many plain rows at once, column by column."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from schemas.rows import ManifestRow, Modality


@dataclass(frozen=True, slots=True)
class TextRun:
    """Rows that are texts without a defect, in the order of their lines."""

    ids: list[str]
    lines: Sequence[int]
    texts: list[str]
    kept: tuple[list[object], ...] = ()  # the kept columns, in the spec's order

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "TextRun":
        return TextRun(self.ids[part], self.lines[part], self.texts[part], tuple(column[part] for column in self.kept))

    def row(self, at: int) -> ManifestRow:
        kept = tuple([column[at] for column in self.kept])
        return ManifestRow(id=self.ids[at], line=self.lines[at], modality=Modality.TEXT, text=self.texts[at], kept=kept)

    def rows(self) -> Iterator[ManifestRow]:
        """The same rows one by one."""
        kept = zip(*self.kept, strict=True) if self.kept else repeat(())
        for id_, line, text, values in zip(self.ids, self.lines, self.texts, kept, strict=False):
            yield ManifestRow(id=id_, line=line, modality=Modality.TEXT, text=text, kept=values)

    def parted(self, alone: Iterable[int]) -> Iterator["TextRun | ManifestRow"]:
        """The same rows, those at the places `alone`, which are sorted, one by one."""
        begin = 0
        for at in alone:
            if at > begin:
                yield self[begin:at]
            yield self.row(at)
            begin = at + 1
        if begin < len(self):
            yield self[begin:]
