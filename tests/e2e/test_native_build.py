"""Builds of native.cpp: wheels with and without a compiler, and a build with memory sanitizers."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from helpers.processes import ROOT

from lstm_models.nn.kernels import native_library

COMPILER = shutil.which("g++")
CAPABILITY = torch.backends.cpu.get_cpu_capability()
LIBRARIES = {f"lstm_models/nn/kernels/_native_{name}" for name in native_library.INSTRUCTION_SETS.values()}

# where there is a compiler, a source that does not compile fails: an installation leaves its library out silently
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C++ compiler")


def wheel(directory: Path, **settings: str) -> set[str]:
    """Build a wheel from a copy of the sources and return its libraries, without their suffixes."""
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


@needs_compiler
def test_the_wheel_contains_the_libraries(tmp_path: Path) -> None:
    assert wheel(tmp_path) == LIBRARIES


def test_the_wheel_builds_without_a_compiler(tmp_path: Path) -> None:
    assert wheel(tmp_path, CC="/missing/cc", CXX="/missing/c++") == set()


SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

# runs the tests of the native loop with the library in the directory argv[1]
SANITIZED = """
import sys
from pathlib import Path
import pytest
from lstm_models.nn.kernels import native_library
native_library.LIBRARY_DIR = Path(sys.argv[1])
assert Path(native_library.library().cdll._name).parent == native_library.LIBRARY_DIR
failed = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]])
sys.exit(failed or native_library.backend())
"""


def compiler_library(name: str) -> str:
    """Return the path of one of the compiler's libraries, or only its name if it is not installed."""
    command = [str(COMPILER), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@needs_compiler
@pytest.mark.skipif(CAPABILITY not in native_library.INSTRUCTION_SETS, reason=f"no native code for {CAPABILITY}")
def test_the_sanitizers_detect_no_invalid_memory_access(tmp_path: Path) -> None:
    name = native_library.backend().removeprefix("native ")
    runtimes = [compiler_library(f"lib{each}.so") for each in ("asan", "ubsan")]
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
        SANITIZED,
        str(tmp_path),
        str(ROOT / "tests/unit/lstm_models/nn/kernels/test_native.py"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1:] == [f"native {name}"], (done.stdout + done.stderr)[-3000:]
    assert " passed" in done.stdout
