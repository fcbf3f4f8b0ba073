"""Published packages, fetched by pip into a cache, checked by their digest, and unpacked. Knows nothing of smmap."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["GITDB", "SMMAP5", "Release", "clean_environment", "fetch", "run_pip", "skip_without_network", "unpack"]


class Release(NamedTuple):
    """One published file. The digest says that the tests ran are those that were published, whole and unchanged."""

    requirement: str
    source: bool
    sha256: str

    @property
    def stem(self) -> str:
        return self.requirement.replace("==", "-")


SMMAP5 = Release("smmap==5.0.3", False, "c106e05d5a61449cf6ba9a1e650227ecfb141590d2a98412103ff35d89fc7b2f")
GITDB = Release("gitdb==4.0.12", True, "5ef71f855d191a3326fcfbc0d5da835f26b13fbcba60c32c21091c349ffdb571")

_NO_NETWORK = re.compile(
    "NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProtocolError|ProxyError"
    "|Temporary failure in name resolution|Name or service not known|Network is unreachable|Connection refused"
)


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would steer git, pytest or the search for modules of a child."""
    steers = ("GIT_", "PYTEST_", "COV_", "COVERAGE_", "PYTHON")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(steers)}
    environment.update(extra)
    return environment


def run_pip(*arguments: str, python: str = sys.executable, timeout: float = 300, **environment: str) -> str:
    """Run pip, return what it said. Fails with its whole output, or skips, see `skip_without_network`."""
    # pip names the reason of a failed connection only where it tries again
    command = [python, "-m", "pip", "--disable-pip-version-check", "--retries=2", *arguments]
    done = subprocess.run(
        command,
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        skip_without_network(done.stdout)
        pytest.fail(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout


def skip_without_network(output: str) -> None:
    """Skip if pip's output says that no network is there, but never in continuous integration."""
    if _NO_NETWORK.search(output) and os.environ.get("CI", "").lower() not in ("1", "true", "yes"):
        pytest.skip("no network: the published packages cannot be fetched")


def fetch(release: Release, cache: Path) -> Path:
    """The release's file in the cache folder, downloaded when it is not there yet."""
    folder = cache / release.stem
    for found in folder.glob("*"):
        if _digest(found) == release.sha256:
            return found
    # pip runs the build system of a source archive for its metadata, so the archive is looked up in pip's own words
    kind = ["--no-binary", ":all:"] if release.source else ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        run_pip("download", "--quiet", "--no-deps", *kind, "--dest", temporary, release.requirement)
        (downloaded,) = Path(temporary).iterdir()
        digest = _digest(downloaded)
        assert digest == release.sha256, f"{downloaded.name} is not the published file: sha256 {digest}"
        folder.mkdir(exist_ok=True)
        target = folder / downloaded.name
        os.replace(downloaded, target)  # atomic: runs side by side may share the cache
    return target


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a wheel or a source archive into a folder of its own; returns the folder that holds the packages."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    if archive.name.endswith(".whl"):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
        return folder
    with tarfile.open(archive) as source:
        if hasattr(tarfile, "data_filter"):
            source.extractall(folder, filter="data")
        else:
            source.extractall(folder)
    (top,) = folder.iterdir()
    return top


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
