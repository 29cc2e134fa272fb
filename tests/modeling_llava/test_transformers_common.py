"""Our classes pass whatever transformers' own Llava passes of transformers' common model tests, on one tiny config.

The tests are not installed with transformers; they come with its source distribution, which is fetched for the
version that is installed and kept in a cache. None of it is part of this repository.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers

from ..warm_python import TRANSFORMERS, WarmPython

HERE = Path(__file__).parent

# Imported by the common tests and left out of the source distribution. What is defined there are further mixins, for
# exporting and for generation; without them the model tests stand alone.
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}

# Tests that cannot apply to us, and why.
NOT_OURS = {"test_reverse_loading_mapping": "old names of weights that transformers renames for its own model_type"}


def source_distribution() -> Path:
    """The source distribution of the installed transformers, downloaded once; skips the test where it is not to be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llavakit" / "transformers-sdist"
    archive = cache / f"transformers-{transformers.__version__}.tar.gz"
    if archive.exists():
        return archive
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(cache)]
    if importlib.util.find_spec("setuptools"):  # spares a download of what builds it
        command.append("--no-build-isolation")
    done = subprocess.run(
        [*command, f"transformers=={transformers.__version__}"], capture_output=True, text=True, timeout=300
    )
    if done.returncode or not archive.exists():
        pytest.skip(
            f"the source distribution of transformers {transformers.__version__}, which has the common tests, cannot "
            f"be downloaded: {(done.stderr or done.stdout).strip()[-300:]}"
        )
    return archive


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Suite"]:
    """A folder with the package `common_tests`: transformers' tests, stand-ins for what they lack, and our suite."""
    pytest.importorskip("parameterized", reason="the common tests of transformers import parameterized")
    folder = tmp_path_factory.mktemp("common")
    package = folder / "common_tests"
    with tarfile.open(source_distribution()) as archive:
        prefix = f"transformers-{transformers.__version__}/tests/"
        members = [member for member in archive.getmembers() if member.name.startswith(prefix)]
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Debian's Python 3.11.2 has none
        archive.extractall(folder, members=members, **safely)
    shutil.move(folder / prefix, package)
    for name, text in STAND_INS.items():
        if not (package / name).exists():
            (package / name).parent.mkdir(exist_ok=True)
            (package / name).parent.joinpath("__init__.py").touch()
            (package / name).write_text(text)
    (package / "__init__.py").touch()
    shutil.copy(HERE / "common_suite.py", package / "suite.py")
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and each is asked about every test
    # What each run imports, once; the suite itself is of its subject, and imported by each
    with WarmPython([*TRANSFORMERS, "pytest", "common_tests.test_modeling_common"], environment) as python:
        yield Suite(folder, environment, python)


@dataclass
class Suite:
    """Where it lies, and the process that its runs are forked from."""

    folder: Path
    environment: dict[str, str]
    python: WarmPython


def run_suite(suite: Suite, subject: str) -> dict[str, str]:
    """Run the common tests on `subject` and return the outcome of each by name: passed, skipped or why it failed."""
    report = suite.folder / f"{subject}.xml"
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={suite.folder}"]
    arguments += [f"--junit-xml={report}", "common_tests/suite.py"]
    environment = {**suite.environment, "LLAVA_UNDER_TEST": subject}
    done = suite.python.run(arguments, suite.folder, environment)
    assert done.returncode in (0, 1) and report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        trouble = next((node for node in case if node.tag in ("failure", "error", "skipped")), None)
        if trouble is None:
            outcomes[case.attrib["name"]] = "passed"
        elif trouble.tag == "skipped":
            outcomes[case.attrib["name"]] = "skipped"
        else:
            outcomes[case.attrib["name"]] = (trouble.attrib.get("message") or trouble.text or "failed")[:300]
    return outcomes


@pytest.fixture(scope="module")
def theirs(suite: Suite) -> dict[str, str]:
    return run_suite(suite, "theirs")


@pytest.mark.slow(minutes=3)
@pytest.mark.network
@pytest.mark.parametrize(
    "projector_type",
    ["mlp2x_gelu", "linear", "resampler", "qformer", "pixel_shuffle_mlp", "perceiver", "perceiver+attend"],
)
def test_ours_passes_what_transformers_llava_passes(
    suite: Suite, theirs: dict[str, str], projector_type: str, record_property
) -> None:
    ours = run_suite(suite, projector_type)
    passed = {name for name, outcome in theirs.items() if outcome == "passed"} - NOT_OURS.keys()
    worse = {name: ours.get(name, "not run") for name in passed if ours.get(name) != "passed"}
    failing = {
        name: outcome
        for name, outcome in theirs.items()
        if outcome not in ("passed", "skipped") and ours.get(name) not in ("passed", "skipped")
    }
    record_property("passed", len(passed))
    print(f"transformers' Llava passes {len(passed)} of {len(theirs)} common tests; both fail: {failing or 'none'}")
    assert len(passed) > 50, f"the suite did not run as it should: {theirs}"
    assert not worse, f"{len(worse)} of {len(passed)} tests that transformers' Llava passes fail here: {worse}"
