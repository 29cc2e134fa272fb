"""What every test shares: no network, no trace outside temporary folders, and the data beside the repository."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRATCH = Path(tempfile.mkdtemp(prefix="llavakit-tests-"))

# Set before any test module imports torch or huggingface_hub: both read these once, when they are imported. Processes
# that a test starts inherit them. More threads than two make models of this size no faster, and many make them slow.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ["HF_HOME"] = str(SCRATCH / "hf")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A tracker that happens to be installed must not open a run for a test.
os.environ["WANDB_MODE"] = "disabled"


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Photographs, tokenizers and benchmark formats for development, kept beside the repository and never in it."""
    folder = Path(os.environ.get("LLAVAKIT_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("development data is absent: ../shared/data, or the folder that LLAVAKIT_SHARED_DATA names")
    return folder
