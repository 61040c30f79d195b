"""Asked: what a report may show, and what it may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Nothing here changes a number in the report."""

    content: bool = True  # texts, uris and pictures of rows; else ids alone
    web: bool = False  # media of http(s) are fetched anew for their pictures
    roots: tuple[str, ...] = ()  # media are read below these alone; (): wherever the job reads them
    umap: bool = True  # a second map, where umap-learn is installed
    colour: str = ""  # the kept column that colours the map; "": the modality, or the first column of few values
    picture_s: float = 20.0  # seconds that pictures may take
    picture_bytes: int = 2_500_000  # and what they may weigh in the page
    seed: int = 0
