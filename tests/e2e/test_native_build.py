"""How native.cpp is built: into a wheel, or left out of it; and by a compiler that watches every access to memory."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers.processes import ROOT

from lstm_models.nn.kernels import native

COMPILER = shutil.which("g++")
LIBRARIES = {f"lstm_models/nn/kernels/_native_{name}" for name in native.INSTRUCTION_SETS.values()}


def wheel(directory: Path, **settings: str) -> set[str]:
    """The libraries in a wheel that pip has built from a copy of the sources, without their suffixes."""
    source = directory / "source"
    ignored = shutil.ignore_patterns(".*", "*.so", "build", "dist", "mlruns", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(source)]
    subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True, text=True)
    (built,) = directory.glob("*.whl")
    with ZipFile(built) as archive:
        names = archive.namelist()
    assert "lstm_models/nn/kernels/native.py" in names
    return {name.partition(".")[0] for name in names if name.endswith(".so")}


@pytest.mark.skipif(not COMPILER or not native.library().code, reason=native.backend())
def test_the_libraries_are_in_the_wheel(tmp_path: Path) -> None:
    assert wheel(tmp_path) == LIBRARIES


def test_without_a_compiler_there_is_a_wheel_without_them(tmp_path: Path) -> None:
    assert wheel(tmp_path, CC="/nowhere/cc", CXX="/nowhere/c++") == set()


SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

# the native loop's own tests, on what was built to be watched
WATCHED = """
import sys
from pathlib import Path
import pytest
from lstm_models.nn.kernels import native
native.FOLDER = Path(sys.argv[1])
failed = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]])
sys.exit(failed or native.backend())
"""


def library_of(name: str) -> str:
    """Where the compiler's own library is, or only its name, where there is none."""
    command = [str(COMPILER), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not COMPILER or not native.library().code, reason=native.backend())
def test_nothing_is_read_or_written_outside_of_what_is_given(tmp_path: Path) -> None:
    name = native.backend().removeprefix("native ")
    runtimes = [library_of(f"lib{each}.so") for each in ("asan", "ubsan")]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip("the compiler has no sanitizers")
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    (flags,) = (each["extra-compile-args"] for each in modules if each["name"].endswith(name))
    built = tmp_path / f"_native_{name}.so"
    command = [str(COMPILER), *flags, "-O1", "-g", *SANITIZERS, "-fPIC", "-shared", "-o", str(built)]
    subprocess.run([*command, str(ROOT / "lstm_models/nn/kernels/native.cpp")], check=True)
    environment = os.environ | {
        "LD_PRELOAD": ":".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }
    command = [
        sys.executable,
        "-c",
        WATCHED,
        str(tmp_path),
        str(ROOT / "tests/unit/lstm_models/nn/kernels/test_native.py"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1:] == [f"native {name}"], (done.stdout + done.stderr)[-3000:]
    assert " passed" in done.stdout
