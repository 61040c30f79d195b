"""Cards: rows as tiles of a contact sheet, with a picture or the beginning of a text."""

from dataclasses import dataclass

from report.html import Html, snippet, tag
from report.pictures import Pictures
from schemas.rows import ManifestRow, Modality, Part
from workers.fetch_failure import shown_uri

#: Pixels of a picture, and characters of a text.
EDGE, TEXT = 96, 180
#: Characters of an id.
_ID = 60


@dataclass(frozen=True, slots=True)
class Cards:
    """Makes cards of rows, with what may be shown of them."""

    pictures: Pictures | None  # None: ids alone

    def of(self, row: ManifestRow | None, id_: str, *, note: str = "", start_s: float | None = None) -> Html:
        """One row; `note` is what is to be said of it here."""
        picture = self.pictures.of(row, EDGE) if self.pictures else ""
        words = self.words(row)
        name = snippet(id_, _ID) + (f" from {start_s:g} s" if start_s is not None else "")
        shown = tag("img", src=picture, alt=f"{_kind(row)} {name}") if picture else None
        said = tag("p", tag("bdi", words)) if words and not (shown and _is_medium(row)) else None
        said = said or (None if shown else tag("p", _kind(row), class_="none"))
        caption = tag("div", tag("bdi", name, class_="id"), tag("span", note) if note else None, class_="cap")
        return tag("div", tag("div", shown, said, class_="face"), caption, class_="card")

    def words(self, row: ManifestRow | None, limit: int = TEXT) -> str:
        """The row's text, or where its medium lies; "" where nothing may be shown."""
        if row is None or self.pictures is None:
            return ""
        parts = row.parts or (Part(modality=row.modality, text=row.text, uri=row.uri),)
        said = [part.text if part.text is not None else shown_uri(part.uri or "") for part in parts]
        return snippet(" · ".join(filter(None, said)), limit)


def is_text(row: ManifestRow | None) -> bool:
    """Whether its card is a wide one."""
    return row is not None and row.modality is Modality.TEXT


def _is_medium(row: ManifestRow | None) -> bool:
    return row is not None and not row.parts and row.modality is not Modality.TEXT


def _kind(row: ManifestRow | None) -> str:
    return str(row.modality) if row is not None else "row"
