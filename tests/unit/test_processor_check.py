"""Whether a model can be fed here is known before its weights are loaded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workers.processor_check import check_processor

CHECK = "import sys; from pathlib import Path; from workers.processor_check import check_processor; "


@pytest.mark.model
def test_every_tiny_model_can_be_fed(tiny_models: dict[str, Path]) -> None:
    """Tokenizers, image, sound and film processors are all built from their files."""
    assert {name: check_processor(folder) for name, folder in tiny_models.items()} == dict.fromkeys(tiny_models)


@pytest.mark.model
def test_a_missing_package_is_named_with_the_way_out(tiny_models: dict[str, Path]) -> None:
    """Without torchvision a Qwen model takes not even texts; that is said in one line, and no weight is read."""
    code = CHECK + "sys.modules['torchvision'] = None; print(check_processor(Path(sys.argv[1])))"

    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_models["qwen3vl_embedding"])], capture_output=True, text=True, check=True
    )

    assert done.stdout == "Qwen3VLVideoProcessor needs torchvision: install a build that fits your torch\n"


@pytest.mark.model
def test_a_broken_tokenizer_is_said_to_be_broken(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Any error of the library becomes one line."""
    folder = Path(shutil.copytree(tiny_models["clip"], tmp_path / "model"))
    (folder / "tokenizer.json").write_text("{")

    problem = check_processor(folder)

    assert problem is not None
    assert problem.startswith("its processor cannot be built here (")
    assert "\n" not in problem


def test_importing_the_modules_loads_no_library() -> None:
    """What makes torchvision importable runs when it is called, and not before."""
    code = (
        "import sys, workers.processor_check, workers.torchvision_cpu;"
        "print([m for m in ('torch', 'torchvision', 'transformers') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.model
def test_torchvision_is_made_importable_any_number_of_times() -> None:
    """The second call finds it done, and a process without torchvision is told that there is none."""
    code = (
        "import importlib.util, sys; there = importlib.util.find_spec('torchvision') is not None;"
        "sys.modules['torchvision'] = None;"
        "from workers.torchvision_cpu import make_torchvision_importable as make; without = make();"
        "del sys.modules['torchvision']; print(without, make() == there, make() == there)"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False True True"
