"""The map of packages, the wheel that comes of it, and which folder may import which.

An editable install finds what setup.cfg forgets, so that the loss shows only in a wheel; hence these checks.
"""

import ast
import configparser
import importlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The rooms in the order in which data flows; a room may import itself and what stands before it.
FLOORS = [
    "rows",
    "endpoints",
    "reports",
    "processing",
    "modeling_llava",
    "checkpoints",
    "data_generation",
    "train",
    "inference",
    "evaluation",
    "quickstart",
    "photographs",
    "ablations",
    "compare",
    "bench",
]
# What the light files of a room below may be taken for: the one way from a file to pixels ships with checkpoints, so
# that it is written there.
LENT = {
    "rows": [
        f"llavakit.processing.{name}" for name in ("image_files", "image_inputs", "video_containers", "video_frames")
    ]
}
# Copied flat beside the weights by save_pretrained.
SHIPPED = ["processing", "modeling_llava"]
RESOURCES = {".jinja", ".html", ".svg", ".json", ".txt"}

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


@pytest.fixture(scope="module")
def package_folders(setup_cfg: configparser.ConfigParser) -> dict[str, Path]:
    """Room -> its folder, as ``package_dir`` maps them. Sub-packages lie within."""
    lines = setup_cfg["options"]["package_dir"].strip().splitlines()
    return {name.strip(): ROOT / folder.strip() for name, folder in (line.split("=") for line in lines)}


def folder_of(package: str, package_folders: dict[str, Path]) -> Path:
    """The folder of a room or of a sub-package."""
    room = max((name for name in package_folders if f"{package}.".startswith(f"{name}.")), key=len)
    return package_folders[room].joinpath(*package.removeprefix(room).strip(".").split("."))


def package_of(file: Path, package: str, folder: Path) -> str:
    """The (sub-)package that a module of a room belongs to."""
    return ".".join([package, *file.relative_to(folder).parent.parts])


def is_resource(file: Path) -> bool:
    return file.suffix in RESOURCES or file.name == "py.typed"


# the map


def test_setup_cfg_lists_every_package(setup_cfg: configparser.ConfigParser, package_folders: dict[str, Path]) -> None:
    listed = setup_cfg["options"]["packages"].split()
    assert list(package_folders) == ["llavakit", *(f"llavakit.{floor}" for floor in FLOORS)]
    assert [name for name in listed if name in package_folders] == list(package_folders), "in the order of the floors"

    tracked = [ROOT / name for name in git("ls-files", "*__init__.py")]
    assert {file.parent for file in tracked if not file.is_symlink()} == {
        folder_of(name, package_folders) for name in listed
    }


@pytest.mark.parametrize("floor", SHIPPED)
def test_folders_that_ship_hold_no_subpackages(floor: str, package_folders: dict[str, Path]) -> None:
    folder = package_folders[f"llavakit.{floor}"]
    nested = [file for file in folder.rglob("*.py") if file.parent != folder]
    assert not nested, f"save_pretrained copies one level: {nested}"


def test_every_resource_is_package_data(
    setup_cfg: configparser.ConfigParser, package_folders: dict[str, Path]
) -> None:
    patterns = {name: value.split() for name, value in setup_cfg["options.package_data"].items()}
    listed = setup_cfg["options"]["packages"].split()
    folders = {name: folder_of(name, package_folders) for name in listed}
    for room in package_folders.values():
        for file in filter(is_resource, room.rglob("*")):
            package = max(
                (name for name, folder in folders.items() if file.is_relative_to(folder)),
                key=lambda name: len(folders[name].parts),
            )
            assert any(file.relative_to(folders[package]).match(pattern) for pattern in patterns.get(package, [])), (
                f"{file.relative_to(ROOT)} would be missing in a wheel: add it to package_data of {package}"
            )


def test_type_checkers_find_every_package(package_folders: dict[str, Path]) -> None:
    typings = ROOT / "typings" / "llavakit"
    for package, folder in package_folders.items():
        if package != "llavakit":
            assert (typings / package.removeprefix("llavakit.")).resolve() == folder
    for file in (ROOT / "src" / "llavakit").iterdir():
        if file.suffix == ".py" or is_resource(file):
            assert (typings / file.name).resolve() == file


# the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, package_folders: dict[str, Path]) -> zipfile.ZipFile:
    """A wheel of the working tree, built in a copy: setuptools would otherwise pack what an older build left."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in package_folders.values():
        target = source / folder.relative_to(ROOT)
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", "dist", "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next((source / "dist").glob("*.whl")))


@pytest.mark.slow
def test_wheel_holds_every_file(wheel: zipfile.ZipFile, package_folders: dict[str, Path]) -> None:
    expected = {
        f"{package.replace('.', '/')}/{file.relative_to(folder).as_posix()}"
        for package, folder in package_folders.items()
        for file in folder.rglob("*")
        if file.suffix == ".py" or is_resource(file)
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_wheel_names_command_and_licence(wheel: zipfile.ZipFile) -> None:
    texts = {Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "llavakit = llavakit.cli:main" in texts["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    assert "Apache License" in texts["LICENSE"]


# who imports whom


def imports(file: Path, package: str) -> Iterator[str]:
    """Absolute names that ``file``, a module of ``package``, imports; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def floor_of(name: str) -> str | None:
    """The folder that an imported name of llavakit lies in; None for the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else None


@pytest.mark.parametrize("floor", FLOORS)
def test_nothing_imports_from_a_floor_below(floor: str, package_folders: dict[str, Path]) -> None:
    package = f"llavakit.{floor}"
    allowed = FLOORS[: FLOORS.index(floor) + 1]
    folder = package_folders[package]
    for file in folder.rglob("*.py"):
        for name in imports(file, package_of(file, package, folder)):
            if name.split(".")[0] != "llavakit":
                continue
            target = floor_of(name)
            if name.startswith(tuple(f"{lent}." for lent in LENT.get(floor, []))):
                continue
            if target is not None:
                assert target in allowed, f"{floor}/{file.name} imports {name}, which stands below {floor}"
            else:
                # src/llavakit is the door: it imports every floor, so that only the last one, written as a user
                # would write it, may go through it. The version number hangs on nothing.
                at_the_door = name.startswith("llavakit._version") or floor == FLOORS[-1]
                assert at_the_door, f"{floor}/{file.name} imports {name}; name the folder that defines it"


@pytest.mark.parametrize("floor", SHIPPED)
def test_files_that_ship_with_a_checkpoint_stand_alone(floor: str, package_folders: dict[str, Path]) -> None:
    folder = package_folders[f"llavakit.{floor}"]
    for file in folder.glob("*.py"):
        if file.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            where = f"{floor}/{file.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
                assert "llavakit" not in names, f"{where} imports llavakit, absent where the checkpoint is loaded"
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{where} imports from a parent folder"
                # "from . import x" is not followed by what copies the files; "from .x import y" is.
                assert node.module is not None and "." not in node.module, f"{where}: write `from .name import X`"
                assert (folder / f"{node.module}.py").is_file(), f"{where} imports .{node.module}, not in {floor}/"
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "llavakit", f"{where} imports llavakit"


def test_files_that_ship_with_a_checkpoint_do_not_overwrite_each_other(package_folders: dict[str, Path]) -> None:
    names = [
        file.name
        for floor in SHIPPED
        for file in package_folders[f"llavakit.{floor}"].iterdir()
        if file.is_file() and file.name != "__init__.py"
    ]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


# the shape of the code


def modules(package_folders: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Every module of the rooms, by its dotted name; a package is called by its own."""
    for room, folder in package_folders.items():
        for file in folder.rglob("*.py"):
            name = ".".join([package_of(file, room, folder), file.stem])
            yield name.removesuffix(".__init__"), file


def test_no_module_imports_itself_by_a_detour(package_folders: dict[str, Path]) -> None:
    """Imports for annotations alone, and those inside functions, count as well."""
    files = dict(modules(package_folders))
    needed: dict[str, set[str]] = {}
    for name, file in files.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        found = {target if target in files else target.rpartition(".")[0] for target in imports(file, package)}
        needed[name] = {target for target in found if target in files and target != name}
    # The door names every room, and is imported by none of them
    del needed["llavakit"]
    while True:
        used = {target for others in needed.values() for target in others}
        outside = [name for name, others in needed.items() if not others & set(needed) or name not in used]
        if not outside:
            break
        for name in outside:
            del needed[name]
    assert not needed, f"in a circle: {sorted(needed)}"


MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 400, 80


def test_files_are_short(package_folders: dict[str, Path]) -> None:
    """Of the rooms and of their tests."""
    for file in [*(file for _, file in modules(package_folders)), *(ROOT / "tests").rglob("*.py")]:
        lines = len(file.read_text().splitlines())
        assert lines <= MOST_LINES_OF_A_FILE, f"{file.relative_to(ROOT)} has {lines} lines: one concept a file"


@pytest.mark.slow
def test_functions_are_short(package_folders: dict[str, Path]) -> None:
    for _, file in modules(package_folders):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                where = f"{file.relative_to(ROOT)}: {node.name}"
                assert lines <= MOST_LINES_OF_A_FUNCTION, f"{where} has {lines} lines"


# (Sub-)package -> its registries, each a constant of its __init__.py; the files that ship stand flat, and have theirs in
# the file of the notion
REGISTRIES = {
    "llavakit.modeling_llava.connectors": ["CONNECTORS"],
    "llavakit.modeling_llava.fusions": ["FUSIONS"],
    "llavakit.modeling_llava.model_parts": ["PARTS", "STAGES"],
    "llavakit.processing.image_layouts": ["IMAGE_LAYOUTS"],
    "llavakit.processing.chat_templates": ["SHIPPED_TEMPLATES"],
    "llavakit.cli": ["VERBS"],
    "llavakit.data_generation.contexts": ["CONTEXT_SOURCES"],
    "llavakit.data_generation.filters": ["FILTERS"],
    "llavakit.data_generation.prompts": ["DATA_TYPES"],
    "llavakit.data_generation.teachers": ["TEACHERS"],
    "llavakit.data_generation.sources": ["ACADEMIC"],
    "llavakit.evaluation.tasks": ["TASKS"],
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in REGISTRIES.items() for name in names]
)
def test_registries_are_tables_with_one_look_up(module: str, name: str) -> None:
    from llavakit.rows.registry import look_up

    table = getattr(importlib.import_module(module), name)
    assert isinstance(table, dict) and table and all(isinstance(key, str) for key in table)
    for key, entry in table.items():
        assert look_up(table, key, name) is entry
    with pytest.raises(ValueError) as caught:
        look_up(table, "no such entry", name)
    assert "no such entry" in str(caught.value) and all(key in str(caught.value) for key in table)


def test_help_and_data_steps_load_neither_torch_nor_transformers() -> None:
    """In processes of their own; tests/test_imports.py goes on from here."""
    code = (
        "import sys\nfrom llavakit.cli import main\n"
        "try: main({arguments})\nexcept SystemExit: pass\n"
        "assert not {{'torch', 'transformers', 'trl'}} & set(sys.modules), sorted(sys.modules)"
    )
    for arguments in (["--version"], ["--help"], ["data", "--help"], ["data", "generate", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments=arguments)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr


# the repository


def git(*arguments: str) -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def _one_a_line(section: configparser.SectionProxy) -> dict[str, str]:
    return {name: value.replace(" ", "") for name, value in section.items()}


def test_constraints_pin_exactly_what_setup_cfg_asks_for(setup_cfg: configparser.ConfigParser) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0", "this release has a small CPU build on the index; a bare torch fetches gigabytes"
    extras = {name: lines.split() for name, lines in _one_a_line(setup_cfg["options.extras_require"]).items()}
    assert "llavakit[data,eval,gguf,web,video]" in extras["dev"], "the tests need what these parts need"
    # but for what every process would import where it is installed, which CI brings for the tests of it alone
    assert extras["quantization"] == ["bitsandbytes"] and "bitsandbytes\n" in (ROOT / ".ci/run").read_text()
    wanted = _one_a_line(setup_cfg["options"])["install_requires"].split()
    wanted += [
        name for extra in ("data", "eval", "gguf", "quantization", "web", "video", "dev") for name in extras[extra]
    ]
    names = {name.partition(">=")[0] for name in wanted if not name.startswith("llavakit[")}
    assert names <= set(pins), f"not pinned: {sorted(names - set(pins))}"


def test_nothing_large_and_no_data_is_committed() -> None:
    for name in git("ls-files"):
        file = ROOT / name
        if file.is_file() and not file.is_symlink():
            assert file.stat().st_size < 500_000, f"{name} has {file.stat().st_size} bytes"
            assert file.suffix not in {".safetensors", ".bin", ".parquet"}, f"{name}: weights and data stay out"
