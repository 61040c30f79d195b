"""Models with a short name: the cards that are shipped, and those that users write."""

import os
import shutil
from pathlib import Path

import pytest

from schemas.errors import ModelError
from schemas.model_cards import Family, Kind
from schemas.rows import Modality
from schemas.sizes import SIZES
from storage.model_catalog import KnownModel, read_cards, read_catalogue
from storage.model_files import describe_models, resolve_model
from storage.model_footprint import size_for
from tests.unit.test_model_files import COMMIT, hub_cache, refusal, sentence_transformer, write_json

CARD = 'name = "mine"\nrepository = "org/name"\nfamily = "sentence-transformer"\ndim = 32\n'
SHIPPED = (
    "all-minilm-l6-v2",
    "all-mpnet-base-v2",
    "bge-m3",
    "e5-base-v2",
    "clip-vit-b-32",
    "clip-vit-l-14",
    "siglip-base",
    "siglip2-base-naflex",
    "clap",
    "videoprism",
    "qwen3-vl-embedding-2b",
    "qwen3-vl-embedding-8b",
    "qwen3-vl-reranker-2b",
    "qwen3-vl-reranker-8b",
    "e5-omni-3b",
    "ms-marco-minilm-l6-v2",
)


def write_cards(path: Path, *cards: str) -> Path:
    """A file of cards."""
    path.write_text("".join(f"[[model]]\n{card}\n" for card in cards))
    return path


def shipped() -> dict[str, KnownModel]:
    return {model.name: model for model in read_catalogue({})}


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the environment names as the user's cards."""
    path = tmp_path / "models.toml"
    monkeypatch.setenv("EMBEDMILL_MODELS", str(path))
    return path


# --- shipped cards


def test_the_families_have_cards() -> None:
    """The models that the documentation speaks of have a short name."""
    assert set(SHIPPED) <= set(shipped())
    assert {model.family for model in shipped().values()} == set(Family) - {Family.CONSE, Family.HASH, Family.MEL}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_card_is_complete(name: str) -> None:
    """Each says where the model is, what it takes, how large it is, and so what device it needs."""
    model = shipped()[name]

    assert model.repository
    assert model.about
    assert model.params > 10**6
    assert (model.kind is Kind.RERANK) == (model.dim == 1)
    assert size_for(model.sketch())[0] in SIZES


def test_list_begins_with_what_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packaged models come first, then the catalogue."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/absent")

    names = [model.name for model in describe_models()]

    assert names[:6] == ["minilm", "demo", "hash", "hash-rerank", "sounds", "demo-reranker"]
    assert len(names) == len(set(names))


def test_e5_has_its_prompts() -> None:
    """Its files declare none, and without them its vectors are worse."""
    model = shipped()["e5-base-v2"]

    assert model.prompts == (("query", "query: "), ("document", "passage: "))
    assert model.default_prompt == "passage: "


@pytest.mark.parametrize("name", ["bge-m3", "qwen3-vl-reranker-8b", "e5-omni-3b"])
def test_a_card_without_a_commit_says_how_to_pin(name: str) -> None:
    """No commit is written down that was not known for sure."""
    message = refusal(name)

    assert f"{shipped()[name].repository}@<40-hex commit>" in message
    assert "pin" in message
    assert "--allow-unpinned" in message


def test_a_pinned_card_is_looked_for_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short name needs no commit on the command line."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    assert "cannot be had" in refusal("e5-base-v2")


def test_a_repository_of_the_catalogue_is_offered_by_its_short_name() -> None:
    """Who names the repository alone is told that its commit is known."""
    assert "give e5-base-v2, which is, or intfloat/e5-base-v2@<40-hex commit>" in refusal("intfloat/e5-base-v2")


# --- the user's own


def test_a_users_card_is_listed_with_the_rest(cards: Path) -> None:
    """What is left out follows from the family."""
    write_cards(cards, CARD)

    mine = describe_models()[-1]

    assert (mine.name, mine.kind) == ("mine", Kind.EMBED)
    assert mine.modalities == {Modality.TEXT}
    assert mine.source == str(cards)


def test_a_users_card_resolves_to_its_commit(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short name stands for repository, commit and prompts."""
    write_cards(cards, CARD + f'revision = "{COMMIT}"\nprompts = {{ query = "q: " }}\ndefault_prompt = "query"\n')
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache(tmp_path)))

    card = resolve_model("mine").card

    assert (card.name, card.revision) == (f"org/name@{COMMIT}", COMMIT)
    assert (card.prompts, card.default_prompt) == ((("query", "q: "),), "q: ")
    assert resolve_model(card.name).card == card


def test_a_users_card_resolves_to_its_folder(cards: Path, tmp_path: Path) -> None:
    """A local model has a short name too, and its prompts replace those that its files declare."""
    folder = sentence_transformer(tmp_path / "model")
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "theirs: "}})
    write_cards(
        cards,
        f'name = "mine"\nfolder = "{folder}"\nfamily = "sentence-transformer"\ndim = 32\nabout = "x"\n'
        'prompts = { query = "ours: " }',
        f'name = "theirs"\nfolder = "{shutil.copytree(folder, tmp_path / "other")}"\n'
        'family = "sentence-transformer"\ndim = 32',
    )

    mine, theirs = resolve_model("mine"), resolve_model("theirs")

    assert (mine.folder, mine.card.name, mine.card.about) == (folder, str(folder), "x")
    assert mine.card.prompts == (("query", "ours: "),)
    assert theirs.card.prompts == (("query", "theirs: "),)
    assert resolve_model(str(folder)).card == mine.card


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dim = 64", "dim is 64 on its card and 32 in its files"),
        ('dim = 32\nkind = "rerank"', "kind is rerank on its card and embed in its files"),
        ('dim = 32\nmodalities = ["text", "image"]', "modalities is image, text on its card and text in its files"),
    ],
)
def test_a_card_at_odds_with_its_files_is_refused(cards: Path, tmp_path: Path, line: str, said: str) -> None:
    """A card for another revision must not decide where rows are sent."""
    folder = sentence_transformer(tmp_path / "model")
    write_cards(cards, f'name = "mine"\nfolder = "{folder}"\nfamily = "sentence-transformer"\n{line}')

    message = refusal("mine")

    assert said in message
    assert str(cards) in message


def test_a_card_whose_folder_is_gone_is_refused(cards: Path, tmp_path: Path) -> None:
    """The refusal names the card to correct."""
    write_cards(cards, f'name = "mine"\nfolder = "{tmp_path}/gone"\nfamily = "clip"\ndim = 8')

    assert f"{cards}: model mine: there is no folder {tmp_path}/gone; correct the card" in refusal("mine")


def test_several_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named like folders in PATH."""
    first = write_cards(tmp_path / "a.toml", CARD)
    second = write_cards(tmp_path / "b.toml", CARD.replace("mine", "other"))
    monkeypatch.setenv("EMBEDMILL_MODELS", os.pathsep.join((str(first), str(second))))

    assert [model.name for model in describe_models()[-2:]] == ["mine", "other"]


def test_the_users_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable it is where the platform keeps configuration; it need not exist."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = len(describe_models())
    (tmp_path / "embedmill").mkdir()
    write_cards(tmp_path / "embedmill" / "models.toml", CARD)

    assert [model.name for model in describe_models()[before:]] == ["mine"]


@pytest.mark.parametrize("name", ["minilm", "clap"])
def test_a_name_is_used_once(cards: Path, name: str) -> None:
    """A user's card takes no name that embedmill has given."""
    write_cards(cards, CARD.replace("mine", name))

    with pytest.raises(ModelError, match=f"{cards}: model {name}: embedmill itself has this name"):
        describe_models()


def test_a_name_twice_in_the_users_files_is_refused(cards: Path) -> None:
    """The refusal names the file that has it already."""
    write_cards(cards, CARD, CARD)

    with pytest.raises(ModelError, match=f"model mine: {cards} has this name"):
        describe_models()


@pytest.mark.parametrize(
    ("card", "key"),
    [
        (CARD + "colour = 1", "colour = 1 is unknown"),
        (CARD.replace("dim = 32", ""), "dim is missing"),
        (CARD.replace("32", '"32"'), "dim = '32' is no count"),
        (CARD.replace("32", "0"), "dim = 0 is no dimension"),
        (CARD.replace("32", "-1"), "dim = -1 is no count"),
        (CARD.replace("32", "true"), "dim = True is no count"),
        (CARD.replace('"sentence-transformer"', '"conse"'), "family = 'conse' is none of"),
        (CARD.replace('"sentence-transformer"', "7"), "family = 7 is none of"),
        (CARD.replace("org/name", "../name"), "repository = '../name' is not org/name"),
        (CARD.replace("org/name", "org"), "repository = 'org' is not org/name"),
        (CARD + 'revision = "main"', "revision = 'main' is not a 40-hex commit"),
        (CARD + 'folder = "/x"', "must be there, or a folder: one of the two"),
        (CARD.replace('repository = "org/name"', ""), "repository must be there, or a folder: one of the two"),
        (CARD.replace('repository = "org/name"', 'folder = "x"'), "folder = 'x' is relative"),
        (CARD + 'modalities = "text"', "modalities = 'text' is no list of"),
        (CARD + 'modalities = ["smell"]', "modalities = ['smell'] is no list of"),
        (CARD + 'kind = "sort"', "kind = 'sort' is none of embed, rerank"),
        (CARD + 'dtype = "int4"', "dtype = 'int4' is none of"),
        (CARD + "prompts = { query = 1 }", "prompts = {'query': 1} is no table of texts"),
        (CARD + 'prompts = { "a b" = "x" }', "which is no plain word"),
        (CARD + 'default_prompt = "query"', "default_prompt = 'query' is the name of none of its prompts"),
        (CARD + 'about = "\\u001b[31m"', "holds control characters"),
        (CARD.replace('"mine"', '"a/b"'), "name = 'a/b' is not a plain word"),
        (CARD.replace('"mine"', "5"), "model number 1: name = 5 is no text"),
    ],
)
def test_a_faulty_card_is_refused_by_file_card_and_key(tmp_path: Path, card: str, key: str) -> None:
    """One line says what to correct, and where."""
    path = write_cards(tmp_path / "models.toml", card)

    with pytest.raises(ModelError) as caught:
        read_cards(path)

    message = str(caught.value)
    assert message.startswith(f"{path}: model ")
    assert key in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content", [b"[[model", b"\xff", b"model = 1", b"model = [1]", b"[models]", b'[model]\nname="x"']
)
def test_a_file_of_no_cards_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no TOML, or has no [[model]] tables, is named."""
    path = tmp_path / "models.toml"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=str(path)):
        read_cards(path)


def test_a_file_that_is_not_there_is_refused(cards: Path) -> None:
    """A variable that leads nowhere is a mistake, and said to be one."""
    with pytest.raises(ModelError, match=f"{cards} does not exist; correct EMBEDMILL_MODELS"):
        describe_models()
