"""``pip install .`` installs only the package, with its data and licences; it works without the repository."""

from __future__ import annotations

import email
import email.message
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "kd/data/mnist_idx/NOTICE.md"
ROOT_MODULES = [path.stem for path in ROOT.glob("*.py")]


def repository_files() -> list[str]:
    """Return the files of a clone: all files that git tracks or would track."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout, to distinguish the project's files from outputs")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in listed if (ROOT / name).is_file()]


def clean_copy(folder: Path) -> Path:
    """Copy the files of a fresh clone into the folder."""
    for name in repository_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def require_index(folder: Path) -> None:
    """Skip if pip cannot download packages; later errors are failures."""
    download = run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "hatchling")
    if download.returncode:
        pytest.skip("needs a package index that pip can reach")


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist and the wheel built from the sdist."""
    pytest.importorskip("build", reason="needs the build package (test extra)")
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    if not isolation:
        require_index(tmp_path_factory.mktemp("index"))
    source, folder = clean_copy(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", *isolation, "--outdir", folder, source)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist(dist: Path) -> dict[str, bytes]:
    """Return the contents of the sdist by file name, without the leading folder."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        opened = {member.name.split("/", 1)[1]: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in opened.items() if file}


@pytest.fixture(scope="module")
def python(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh environment with the wheel and this environment's dependencies, but without this checkout.

    The ``.pth`` line adds the dependencies' folder, but not the ``.pth`` files in it: one of them is this checkout's
    editable installation.
    """
    folder = tmp_path_factory.mktemp("environment")
    created = run(sys.executable, "-m", "venv", "--without-pip", folder)
    assert created.returncode == 0, created.stderr
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    site = Path(paths["purelib"])
    options = ("--quiet", "--no-deps", "--no-index", "--target", site)
    installed = run(sys.executable, "-m", "pip", "install", *options, wheel.filename or "")
    assert installed.returncode == 0, installed.stderr
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return Path(paths["scripts"]) / Path(sys.executable).name


def test_the_installed_package_loads_its_own_mnist(python: Path, tmp_path: Path) -> None:
    program = "import kd; d = kd.load_mnist(train=False); print(len(d), tuple(d[0][0].shape)); print(kd.__file__)"
    ran = run(python, "-I", "-W", "error", "-c", program, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    size, location = ran.stdout.splitlines()
    assert size == "10000 (1, 28, 28)"
    assert Path(location).is_relative_to(python.parent.parent)
    assert not Path(location).is_relative_to(ROOT)
    assert list(tmp_path.iterdir()) == []


def test_the_installed_package_trains(python: Path, tmp_path: Path) -> None:
    program = (
        "import kd, torch; data = torch.utils.data.Subset(kd.load_mnist(train=True), range(256)); "
        "loader = kd.make_loader(data, batch_size=64, shuffle=True); "
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)); "
        "optimizer = torch.optim.Adam(model.parameters()); "
        "history = kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=2, seed=0); "
        "print(history['train_loss'][1] < history['train_loss'][0])"
    )
    ran = run(python, "-I", "-c", program, cwd=tmp_path)
    assert ran.stdout.strip() == "True", ran.stderr


def test_the_installed_command_runs_the_pipeline(python: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "kd = kd.__main__:main" in wheel.read(name).decode()
    ran = run(python, "-I", "-m", "kd", "run", "--limit", "200", "--epochs", "1", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "models" / "student_distilled.pth").is_file()


@pytest.mark.parametrize("module", ROOT_MODULES)
def test_no_module_of_the_pipeline_is_installed(python: Path, tmp_path: Path, module: str) -> None:
    ran = run(python, "-I", "-c", f"import importlib.util; print(importlib.util.find_spec({module!r}))", cwd=tmp_path)
    assert ran.stdout.strip() == "None", ran.stderr


def test_the_wheel_contains_only_the_package(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == {name for name in repository_files() if name.startswith("kd/")}
    assert {"kd/py.typed", NOTICE} <= shipped


def test_data_and_notice_in_wheel_and_sdist_equal_the_repositorys(
    wheel: zipfile.ZipFile, sdist: dict[str, bytes]
) -> None:
    names = [NOTICE, *(f"kd/data/mnist_idx/{path.name}" for path in (ROOT / NOTICE).parent.glob("*.gz"))]
    assert len(names) == 5
    for name in names:
        content = (ROOT / name).read_bytes()
        assert wheel.read(name) == sdist[name] == content, name


def metadata(wheel: zipfile.ZipFile, sdist: dict[str, bytes], kind: str) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name) if kind == "wheel" else sdist["PKG-INFO"])


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_metadata_name_both_licences_and_their_files(
    wheel: zipfile.ZipFile, sdist: dict[str, bytes], kind: str
) -> None:
    fields = metadata(wheel, sdist, kind)
    assert fields["License-Expression"] == "MIT AND CC-BY-SA-3.0"
    assert sorted(fields.get_all("License-File", [])) == ["LICENSE", NOTICE]
    assert fields["Requires-Python"] == ">=3.11"


def test_the_licence_files_are_in_the_wheels_metadata_folder(wheel: zipfile.ZipFile) -> None:
    licences = [name.split("/licenses/")[1] for name in wheel.namelist() if ".dist-info/licenses/" in name]
    assert sorted(licences) == ["LICENSE", NOTICE]


def test_the_sdist_contains_pipeline_documents_and_tests(sdist: dict[str, bytes]) -> None:
    tests = {name for name in repository_files() if re.fullmatch(r"tests/.*\.py", name)}
    expected = {"docs/pipeline.rst", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", *tests}
    assert expected | {f"{module}.py" for module in ROOT_MODULES} <= set(sdist)
