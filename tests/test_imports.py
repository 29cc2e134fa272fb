"""What an import brings with it: names load lazily, the Auto classes know the model all the same, old names still import.

Each case is a process of its own, since an import happens once in a process. Where what matters is the order in which
llavakit and transformers are imported, it is forked from one that has imported what both stand on.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from llavakit._renamed import RENAMED
from llavakit.cli import VERBS

from .warm_python import WarmPython

HEAVY = ("torch", "transformers", "trl", "datasets")

# What transformers, trl and llavakit import and are not imported by
BELOW = ["torch", "torch.distributed.tensor", "torch._dynamo", "torch.export", "scipy.stats", "pandas", "datasets"]
BELOW += ["accelerate", "tokenizers", "safetensors.torch", "huggingface_hub"]

STEPS = (
    "contexts prompts estimate generate filter dedup-images alignment simple scienceqa view academic balance mix card"
)
STEPS += " check-leaks"

KNOWN = """
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from llavakit import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
assert type(AutoConfig.for_model("llavakit")) is LlavaConfig
assert AutoModelForImageTextToText._model_mapping[LlavaConfig] is LlavaForConditionalGeneration
assert PROCESSOR_MAPPING[LlavaConfig] is LlavaProcessor
assert LlavaForConditionalGeneration.from_backbones.__self__ is LlavaForConditionalGeneration
assert LlavaForConditionalGeneration.save_pretrained.__module__ == "llavakit.checkpoints.additions"
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run_above() -> Iterator[Callable[[str], None]]:
    """Runs code in a process that has imported `BELOW` and nothing else."""
    with WarmPython(BELOW) as python:
        above = {"transformers", "trl", "peft", "llavakit"}
        assert python.run(["-c", f"import sys; assert not {above} & {{*sys.modules}}"]).returncode == 0

        def run(code: str) -> None:
            done = python.run(["-c", code])
            assert done.returncode == 0, done.stderr

        yield run


def loaded_by(code: str) -> set[str]:
    """Which heavy libraries are there once the code has run."""
    return set(run(f"{code}\nimport sys; print('\\n', *({{*{HEAVY}}} & {{*sys.modules}}))").splitlines()[-1].split())


def command(*arguments: str) -> str:
    return f"from llavakit.cli import main\ntry: main({list(arguments)})\nexcept SystemExit: pass"


@pytest.mark.parametrize("code", ["import llavakit", command("--version"), command("--help")])
def test_the_package_and_its_help_load_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


@pytest.mark.parametrize("step", STEPS.split())
def test_no_data_step_loads_torch_or_transformers_to_say_what_it_takes(step: str) -> None:
    assert loaded_by(command("data", step, "--help")) & {"torch", "transformers"} == set()


def test_data_steps_are_all_tried_above() -> None:
    help = run(command("data", "--help"))
    assert {line.split()[0] for line in help.splitlines() if line.startswith("    ") and line[4] != " "} >= {
        *STEPS.split()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import llavakit; from transformers import AutoConfig",
        "import llavakit; from transformers import AutoModelForImageTextToText",
        "import llavakit; from transformers import AutoProcessor",
        "import llavakit; from transformers import Trainer",
        "import llavakit, trl; trl.SFTTrainer",
        "from transformers import AutoModel; import llavakit",
        "import transformers; import llavakit",
        "from llavakit.processing import LlavaProcessor",
        "import llavakit.processing.chat_encoding",
        "import llavakit.processing.image_inputs",
        "import llavakit.modeling_llava.connectors",
        "import llavakit.checkpoints.model_card",
        "import llavakit.checkpoints.additions",
        "import llavakit.checkpoints.building",
        "import llavakit.rows.loading",
        "import llavakit.train",
    ],
)
def test_auto_classes_know_the_model_whatever_is_imported_first(first: str, run_above: Callable[[str], None]) -> None:
    # what is asked must be known before a public name is touched: KNOWN asks for the config first
    run_above(f"{first}\nfrom transformers import AutoConfig\nAutoConfig.for_model('llavakit')\n{KNOWN}")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["from llavakit import LlavaSFTConfig", "import llavakit, trl; trl.SFTTrainer"])
def test_no_class_of_transformers_is_made_twice(first: str, run_above: Callable[[str], None]) -> None:
    """A module whose import begins, is loaded on the way by what registers, and is then loaded again."""
    asked = "from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast"
    run_above(f"{first}\n{asked}\nassert issubclass(PreTrainedTokenizerFast, PreTrainedTokenizerBase)")


@pytest.mark.slow
def test_former_module_names_still_import(run_above: Callable[[str], None]) -> None:
    pairs = ", ".join(f"({former!r}, {now!r})" for former, now in RENAMED.items())
    run_above(
        f"from importlib import import_module\nfor former, now in [{pairs}]:\n"
        "    assert import_module(f'llavakit.{former}') is import_module(f'llavakit.{now}'), former"
    )


def test_verbs_name_modules_that_are_there() -> None:
    for verb in VERBS.values():
        module = importlib.import_module(f"llavakit.{verb.module}")
        assert callable(getattr(module, "main" if verb.takes_all else "add_arguments"))
