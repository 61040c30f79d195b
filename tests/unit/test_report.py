"""The report: what it says of a job, and that nothing in a job can make it do anything."""

import json
import re
import shlex
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from report.asked import Asked
from report.charts import nice_ticks
from report.html import snippet, tag
from report.job_facts import Cut
from report.join_page import JOIN_NAMES
from report.likeness import Spread, binned, clusters_of, gap_of, look_around, random_spread
from report.make import make_report
from report.neighbours import find_nearest
from report.pairs_part import sample_pairs
from report.pool import draw_pool
from report.projection import pca
from report.published import PublishedVectors, spread
from report.timeline import timeline_of
from schemas.errors import Refused
from schemas.failures import Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from schemas.shard import Footer
from schemas.spent import Spent, Step
from schemas.visible import visible
from similarity.dedup_request import DedupRequest, dedup_here
from similarity.join_request import SideRequest
from storage.jobs import Job
from storage.shards import published_shards
from storage.store import LocalStore, memory_store, open_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.joins import join_of, random_file, vectors_file
from tests.pages import read_page
from tests.rerank import crossed, planned, sentences
from workers.loading import Loaded

#: Texts that would do something, were they taken for more than text.
HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=2</script>",
    '"><img src=x onerror=window.hacked=3>',
    "' onmouseover='window.hacked=4",
    "<!--<script>window.hacked=5//",
    "\x1b[2J\x1b]0;owned\x07red",
    "abc\u202e\u2066gnp.exe\u2069\u202c",
    '=HYPERLINK("http://evil.example";"x")',
    "{{7*7}}${7*7}",
    "z" * 5000,
)


def done_job(*shards: list[ManifestRow], media: dict[str, Loaded | Failure] | None = None, root: str = "") -> Job:
    """A finished job of the model `hash`."""
    job = planned_job(memory_store(), list(shards), root=root)
    InlineMill(job, media).run()
    return job


def hostile_rows() -> list[ManifestRow]:
    """Rows whose texts and kept columns are hostile, and whose ids are as hostile as an id may be."""
    return [
        ManifestRow(
            id=f"{n:02d}{re.sub(r'[^ -~]', '', text)[:200]}",
            line=n + 1,
            modality=Modality.TEXT,
            text=text,
            kept=(text,),
        )
        for n, text in enumerate(HOSTILE)
    ]


def test_a_finished_job_is_told_in_one_sentence() -> None:
    """A job without a failure says that every row has a vector."""
    job = done_job(text_rows(30), text_rows(12, first=30))

    page = read_page(make_report(job.store))

    assert "Finished: every one of 42 rows has a vector." in page.text


def test_a_job_with_failures_names_them_and_shows_some() -> None:
    """Failures are counted by code in the first sentence, and shown with line and message."""
    bad = ManifestRow(id="bad", line=77, modality=Modality.TEXT, text=" ", defect=FailureCode.TEXT_EMPTY, kept=("k",))
    job = done_job([*text_rows(5), bad])

    page = read_page(make_report(job.store))

    assert "Finished: 5 of 6 rows have a vector; 1 failed (text_empty 1)." in page.text
    assert "line 77: the text is empty or white space only" in page.text


def test_an_unfinished_job_says_how_many_rows_are_left() -> None:
    """A report of a job that was stopped counts what is missing."""
    job = planned_job(memory_store(), [text_rows(10), text_rows(4, first=10)])
    mill = InlineMill(job)
    assert mill.work(mill.message(0)) == "published"

    page = read_page(make_report(job.store))

    assert "The job is not finished: 10 of 14 rows have a vector, and 4 rows have no outcome yet." in page.text


def test_a_job_without_any_vector_has_a_report() -> None:
    """Where nothing is published there is a page that says so."""
    job = planned_job(memory_store(), [text_rows(3)])

    page = read_page(make_report(job.store))

    assert "0 of 3 rows have a vector, and 3 rows have no outcome yet" in page.text


def test_hostile_rows_stay_text() -> None:
    """Whatever ids, texts and kept columns hold, the page has our elements and our scripts alone."""
    job = done_job(hostile_rows())

    page = read_page(make_report(job.store, Asked(colour="label")))

    assert page.breaches() == []
    assert "window.hacked=1" in page.text


def test_hostile_messages_stay_text() -> None:
    """Messages of failures, and what a manifest's location holds, are escaped as well."""
    row = ManifestRow(id="<b>", line=1, modality=Modality.IMAGE, uri="<script>alert(1)</script>.png", kept=("k",))
    wrong = Failure(code=FailureCode.DECODE_FAILED, stage=Stage.DECODE, message="<script>alert(2)</script>\x1b[1m")
    job = done_job([row], media={"<b>": wrong})

    made = make_report(job.store)

    assert read_page(made).breaches() == []
    assert "<script>alert(2)</script>" in read_page(made).text
    assert b"\x1b" not in made


def test_nothing_that_hides_or_turns_text_is_in_the_page() -> None:
    """Control characters, NUL, lone surrogates and marks that turn the direction are shown by their numbers."""
    made = make_report(done_job(hostile_rows()).store).decode()

    hidden = sorted({c for c in made if c != "\n" and visible(c) != c})

    assert hidden == []
    assert "\\u202e" in made


def test_the_data_of_the_map_cannot_end_its_element() -> None:
    """The block of data for the script parses, and holds no mark of markup."""
    page = read_page(make_report(done_job(hostile_rows()).store))

    data = page.inside["script"][0]

    assert not set("<>&") & set(data)
    assert json.loads(data)["points"]["kinds"]


def test_without_content_no_text_is_in_the_page() -> None:
    """`--no-content` shows ids and no text of any row."""
    job = done_job(text_rows(40))

    with_content, without = (make_report(job.store, Asked(content=content)) for content in (True, False))

    assert b"text number 7" in with_content
    assert b"text number" not in without
    assert b"r000007" in without


def test_pictures_are_drawn_within_the_jobs_limits(tmp_path: Path) -> None:
    """An image of the job becomes a small picture; one beyond its roots, or beyond ours, is not opened."""
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.png")
    outside = tmp_path.parent / "outside.png"
    Image.new("RGB", (30, 20), "blue").save(outside)
    rows = [
        ManifestRow(id=name, line=n + 1, modality=Modality.IMAGE, uri=uri, kept=("k",))
        for n, (name, uri) in enumerate(
            (("in", "red.png"), ("out", str(outside)), ("web", "https://127.0.0.1:9/x.png"))
        )
    ]
    media: dict[str, Loaded | Failure] = {row.id: Loaded(image=Image.new("RGB", (8, 8), "green")) for row in rows}
    job = done_job(rows, media=media, root=str(tmp_path))

    page = read_page(make_report(job.store))
    elsewhere = read_page(make_report(job.store, Asked(roots=("/somewhere/else",))))

    pictures = {attributes["alt"] for name, attributes in page.tags if name == "img"}
    assert pictures == {"image in"}
    assert not [name for name, _ in elsewhere.tags if name == "img"]


def test_a_sample_is_drawn_from_all_files_and_no_row_twice() -> None:
    """Of more vectors than are compared with each other some are drawn from each file, and said to be some."""
    job = done_job(*(text_rows(90, first=90 * n) for n in range(8)))
    keys = [key for _, key, _ in sorted(published_shards(job.store))]

    pool = draw_pool(PublishedVectors.of(job), Modality.TEXT, keys, 720, wanted=100)

    ids = [row.id for row in pool.rows]
    assert len(ids) == len(set(ids)) == len(pool.vectors) == 100
    assert {row.shard for row in pool.rows} == set(range(8))
    assert not pool.is_all


def test_what_was_looked_at_is_said() -> None:
    """The page says of how many vectors its pictures are."""
    page = read_page(make_report(done_job(text_rows(20)).store))

    assert "From all 20 text vectors." in page.text
    assert "nearest to it of all 20 vectors" in page.text


def test_neighbours_are_the_exact_ones() -> None:
    """The nearest rows are those that numpy finds by comparing everything."""
    job = done_job(text_rows(60), text_rows(60, first=60))
    column, keys = PublishedVectors.of(job), [key for _, key, _ in sorted(published_shards(job.store))]
    pool = draw_pool(column, Modality.TEXT, keys, 120)

    found = find_nearest(column, pool.rows[:4], pool.vectors[:4], {Modality.TEXT: keys}, 120)

    scores = pool.vectors[:4] @ pool.vectors.T
    for n in range(4):
        scores[n, n] = -2
    expected = [[pool.rows[m].id for m in np.argsort(-line, kind="stable")[:5]] for line in scores]
    assert [[near.row.id for near in line] for line in found.same] == expected
    assert found.searched == 120


def test_commands_of_a_report_can_be_pasted(tmp_path: Path) -> None:
    """They quote a folder with blanks, and name the modality where a job has several."""
    words, pictures = text_rows(3), [replace(row, modality=Modality.IMAGE, text=None) for row in text_rows(3, first=3)]
    pictures = [replace(row, uri=f"{row.id}.png") for row in pictures]
    job = planned_job(LocalStore(tmp_path / "my job's"), [words, pictures])
    loaded: dict[str, Loaded | Failure] = {
        row.id: Loaded(image=Image.new("RGB", (8, 8), (n // 2, 0, 0))) for n, row in enumerate(pictures)
    }
    InlineMill(job, loaded).run()

    page = read_page(make_report(job.store))

    for command in ("dedup", "verify"):
        assert f"embedmill {command} {shlex.quote(str(tmp_path / 'my job') + chr(39) + 's')}" in page.text
    assert "--modality image --out copies-image" in page.text
    assert "copies-text" not in page.text, "no two texts are alike"


def test_a_map_is_not_coloured_by_a_column_that_is_not_there() -> None:
    """A column that the job does not keep is refused, and those that it keeps are named."""
    job = done_job(text_rows(4))

    with pytest.raises(Refused, match=r"--colour nosuch: .* it keeps label"):
        make_report(job.store, Asked(colour="nosuch"))


def test_truncation_counts_what_was_cut_off() -> None:
    """Rows of which the model saw a part are counted, with how much of them it saw; nulls are not rows of that kind."""
    cut = Cut(modality="text", unit="tokens")

    cut.add(pa.chunked_array([[10, 100, None, 1000]]), pa.chunked_array([[10, 55, None, 999]]))

    assert (cut.rows, cut.cut, cut.given, cut.used) == (3, 2, 1110, 1064)
    assert dict(cut.kept_of_cut) == {5: 1, 9: 1}


def test_copies_hang_together_and_others_do_not() -> None:
    """Equal vectors are one cluster; random ones are none."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 32)).astype(np.float32)
    vectors[[5, 90, 200]] = vectors[7]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    around = look_around(vectors, threshold=0.95)

    [cluster] = clusters_of(around.labels, 9)
    assert sorted(cluster) == [5, 7, 90, 200]
    assert around.nearest[7] == pytest.approx(1, abs=1e-6)


def test_copies_are_as_near_as_can_be_and_no_nearer() -> None:
    """Rounding makes no cosine greater than one, so that each row has its place in the distribution."""
    vectors = np.random.default_rng(5).normal(size=(200, 48)).astype(np.float32)
    vectors = np.repeat(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2, axis=0)

    around = look_around(vectors, threshold=0.99)

    assert ((vectors[::2] ** 2).sum(axis=1) > 1).any(), "rounding shows nothing here"
    assert around.nearest.max() <= 1
    assert around.density.max() <= 1
    assert sum(binned(around.nearest, [-1.0, 0.0, 1.0])) == pytest.approx(1)


@pytest.mark.parametrize("drawn", ["text", "text image"])
def test_the_gap_is_between_modalities_that_are_drawn(drawn: str) -> None:
    """A chart within few modalities is compared with pairs of these, however alike those of others are."""
    names = ("text", "image", "audio", "video")
    within = [Spread(left=n, right=n, cosines=np.full(9, 0.5, np.float32)) for n in names if n in drawn.split()]
    across = [
        Spread(left=a, right=b, cosines=np.full(9, 0.1 * ("text" in (a, b)), np.float32))
        for a, b in combinations(names, 2)
    ]

    sides, some = gap_of(within, across)

    assert [s.left for s in sides] == drawn.split()
    assert some
    assert all({s.left, s.right} & {side.left for side in sides} for s in some)


def test_the_null_threshold_is_what_one_random_pair_of_a_thousand_reaches() -> None:
    """Of random pairs of random vectors about one of a thousand lies above it."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4000, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    threshold = random_spread(vectors, vectors, ("text", "text")).threshold

    pairs = vectors[:1000] @ vectors[1000:].T
    assert float((pairs > threshold).mean()) == pytest.approx(0.001, rel=0.25)


def test_principal_components_tell_two_heaps_apart() -> None:
    """Two heaps of vectors lie on two sides of the first component."""
    rng = np.random.default_rng(2)
    heaps = np.concatenate([rng.normal(size=(50, 16)) + 5, rng.normal(size=(50, 16)) - 5]).astype(np.float32)

    points, shares = pca(heaps)

    assert (points[:50, 0] * points[50:, 0] < 0).all()
    assert 0.5 < shares[0] <= shares.sum() <= 1


def test_the_timeline_holds_every_row() -> None:
    """Rates times seconds are the rows, wherever the shards lie in time."""
    footers = [_footer(n, rows=10 * (n + 1), began=100.0 + 7 * n, wall=5.0 + n) for n in range(5)]

    timeline = timeline_of(footers)

    assert timeline is not None
    assert float(timeline.rates["text"].sum() * timeline.step) == pytest.approx(150)
    assert timeline.seconds == pytest.approx(37)


def _footer(shard: int, *, rows: int, began: float, wall: float) -> Footer:
    return Footer(
        job="job-12345678", plan="p", shard=shard, attempt="a", space="s", modality="text", model="hash",
        rows_planned=rows, rows_ok=rows, vectors=rows, failures={}, content_sha256="", worker="w", versions={},
        spent=Spent(seconds={Step.WALL: wall}, began_at=began),
    )  # fmt: skip


def test_a_spread_order_begins_evenly() -> None:
    """Every beginning of the order is spread over the whole, and nothing is left out."""
    order = spread(list(range(100)))

    assert sorted(order) == list(range(100))
    assert max(np.diff(sorted(order[:16]))) <= 16


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.37, 0.994), (0, 1234567), (5, 5)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    """A scale has some numbers of few digits, none outside."""
    ticks = nice_ticks(low, high, 5)

    assert ticks
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= 11


def test_text_becomes_markup_only_as_text() -> None:
    """Names, attributes and children of an element are escaped, and long texts cut."""
    made = tag("p", "<&>\0", title="\"'<\x1b")

    assert made == '<p title="&quot;&#x27;&lt;\\x1b">&lt;&amp;&gt;\\x00</p>'
    assert snippet("a\nb\t c", 80) == "a b c"
    assert len(snippet("x" * 1000, 80)) == 80


def test_the_report_of_a_join_shows_scores_and_pairs(tmp_path: Path) -> None:
    """The page counts the pairs, and shows left rows with theirs."""
    left, right = (random_file(tmp_path / f"{n}.parquet", n, 40, seed=s) for n, s in (("a", 1), ("b", 2)))
    assert join_of(left, right, tmp_path / "out", panel_rows=16, top_k=3)

    page = read_page(make_report(open_store(str(tmp_path / "out"))))

    assert "Finished: 120 pairs of 40 left rows and 40 right rows, by cosine." in page.text
    assert "Asked for: the 3 best of each left row" in page.text
    assert page.breaches() == []


def test_a_join_of_more_pairs_than_are_read_counts_left_rows_of_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of left rows with a pair is of the panels whose pairs were looked at, not of all."""
    left, right = (random_file(tmp_path / f"{n}.parquet", n, 40, seed=s) for n, s in (("a", 1), ("b", 2)))
    assert join_of(left, right, tmp_path / "out", panel_rows=16, top_k=3)
    monkeypatch.setattr("report.pairs_part._PAIRS", 40)

    page = read_page(make_report(open_store(str(tmp_path / "out"))))

    assert "Of 48 of 120 pairs, spread evenly." in page.text
    assert re.search(r"Left rows with a pair\s*100 %\s*of 16\b", page.text)


def test_a_join_whose_pairs_were_not_all_counted_says_about_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more panels than are looked into the number of pairs is an estimate, and is called one."""
    left, right = (random_file(tmp_path / f"{n}.parquet", n, 40, seed=s) for n, s in (("a", 1), ("b", 2)))
    assert join_of(left, right, tmp_path / "out", panel_rows=16, top_k=3)
    monkeypatch.setattr("report.join_page._FILES", 2)

    page = read_page(make_report(open_store(str(tmp_path / "out"))))

    assert re.search(r"Finished: about 1\d\d pairs of 40 left rows", page.text)


def test_segments_of_one_row_are_left_rows_of_their_own() -> None:
    """Two segments that follow each other have one id, and their own pairs."""
    told = {"left_id": ["a"] * 4 + ["b"] * 2, "left.start_s": [0.0, 0.0, 10.0, 10.0, 0.0, 0.0]}
    pairs = pa.table(told | {"right_id": list("uvuvuv"), "score": [0.9, 0.8] * 3, "rank": [1, 2] * 3})

    sample = sample_pairs([(0, pairs)], JOIN_NAMES, 1)

    assert sample.per_left[0].tolist() == [2, 2, 2]
    assert [(group.left, group.start_s) for group in sample.groups] == [("a", 0.0), ("a", 10.0), ("b", 0.0)]


def test_the_report_of_a_stopped_join_says_so(tmp_path: Path) -> None:
    """A join that was stopped in its middle has a report of what is there."""
    left, right = (random_file(tmp_path / f"{n}.parquet", n, 40, seed=s) for n, s in (("a", 1), ("b", 2)))
    assert not join_of(left, right, tmp_path / "out", panel_rows=16, top_k=3, max_pairs=60)

    page = read_page(make_report(open_store(str(tmp_path / "out"))))

    assert "Not finished: 1 of 3 panels are done" in page.text


def test_the_report_of_a_dedup_shows_clusters(tmp_path: Path) -> None:
    """The page says how many rows are copies, and shows some of them."""
    vectors = np.random.default_rng(3).normal(size=(50, 16))
    vectors[[10, 20]] = vectors[30]
    data = vectors_file(tmp_path / "data.parquet", vectors, [f"<i>{n}" for n in range(50)])
    request = DedupRequest(
        side=SideRequest(location=str(data)), threshold=0.99

    )  # fmt: skip
    dedup_here(request, str(tmp_path / "out"), progress=lambda *seen: None)

    page = read_page(make_report(open_store(str(tmp_path / "out"))))

    assert "Finished: 2 of 50 rows are copies of others; 48 stay." in page.text
    assert "<i>10 stays" in page.text
    assert page.breaches() == []


def test_the_report_of_a_rerank_shows_queries_with_their_items(tmp_path: Path) -> None:
    """The page counts the scores, and shows texts of queries and items."""
    queries, items = sentences("q", 6, seed=1), sentences("i", 9, seed=2)
    job = planned(tmp_path, crossed(queries, items, 4), queries, items)
    InlineMill(job).run()

    page = read_page(make_report(job.store))

    assert "Finished: every one of 24 pairs has a score." in page.text
    assert all(query["text"][:60] in page.text for query in queries)
    assert page.breaches() == []


def test_a_folder_of_something_else_has_no_report(tmp_path: Path) -> None:
    """Where there is no job, join or dedup the reason is said."""
    with pytest.raises(Refused, match="holds no job, join or dedup"):
        make_report(open_store(str(tmp_path)))
