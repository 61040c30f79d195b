"""Errors that newcomers meet say what to do next."""

import shutil
from pathlib import Path

import pytest

from tests.mill import embedmill, texts, write_jsonl


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_columns_in_one_word_are_told_apart(tmp_path: Path, name: str) -> None:
    """`--keep a,b` is answered with the words that were meant, whether the manifest has a header or not."""
    manifest = tmp_path / name
    if name.endswith("csv"):
        manifest.write_text("id,text,label,name\n1,a cat,x,y\n")
    else:
        write_jsonl(manifest, texts(3))

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--keep", "label,name")

    assert done.returncode == 2
    assert "--keep is given once for each column: --keep label --keep name" in done.stderr


def test_a_model_that_is_almost_known_is_guessed(tmp_path: Path) -> None:
    """Part of a name, or a slip in one."""
    for said, meant in (("clip", "clip-vit-b-32"), ("miniln", "minilm"), ("CLAP", "clap")):
        done = embedmill("models", "show", said)

        assert done.returncode == 2
        assert f"model {said} is unknown; do you mean " in done.stderr
        assert meant in done.stderr.partition("Else")[0]


def test_no_model_is_answered_with_those_that_need_no_hub(tmp_path: Path) -> None:
    """The option that everybody leaves out at first."""
    done = embedmill("run", tmp_path, "--out", tmp_path / "out")

    assert done.returncode == 2
    assert "minilm (texts) and demo (texts and pictures) need no hub" in done.stderr


def test_a_folder_without_a_job_says_what_makes_one(tmp_path: Path) -> None:
    """Somebody searches the folder of pictures instead of that of their vectors."""
    done = embedmill("search", tmp_path, "a dog")

    assert done.returncode == 2
    assert (
        "holds no job: there is no job.json; `embedmill run MANIFEST --model MODEL --out OUT` makes one" in done.stderr
    )


def test_the_end_says_how_to_search_and_where_failures_are(tmp_path: Path) -> None:
    """A job that texts can be asked of names the command; one with failures names their files."""
    rows = [*texts(3), {"id": "empty", "text": " "}]

    done = embedmill("run", write_jsonl(tmp_path / "rows.jsonl", rows), "--model", "hash", "--out", tmp_path / "out")

    assert done.returncode == 1
    assert f'embedmill search {tmp_path}/out "a few words"' in done.stdout
    assert f"failures  1 (text_empty 1); which, and why: embedmill failures {tmp_path}/out" in done.stdout


def test_words_that_name_a_file_are_searched_for_and_the_option_is_named(tmp_path: Path) -> None:
    """The text stays a text; whoever meant the file is told how."""
    job = tmp_path / "out"
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))
    assert embedmill("run", manifest, "--model", "hash", "--out", job).returncode == 0

    done = embedmill("search", job, manifest)
    other = embedmill("search", job, "a cat " * 2000)

    assert done.returncode == other.returncode == 0, done.stderr + other.stderr
    assert f"embedmill search {job} --file {manifest}" in done.stderr
    assert "--file" not in other.stderr


def test_a_dedup_of_two_modalities_names_its_own_option(tmp_path: Path) -> None:
    """Which is not that of a join."""
    shutil.copy(Path(__file__).parents[2] / "examples/demo/images/bee.png", tmp_path / "bee.png")
    rows = [{"id": "a", "text": "a bee"}, {"id": "b", "uri": "bee.png"}]
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out").returncode == 0

    done = embedmill("dedup", tmp_path / "out", "--out", tmp_path / "copies")

    assert done.returncode == 2
    assert "holds vectors of image, text: say which: --modality of a dedup" in done.stderr
