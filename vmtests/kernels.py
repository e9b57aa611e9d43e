# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels for the VMs: fetched and unpacked once, never installed.

The machine's apt, with package sources, lists and a cache of its own in the cache folder: apt checks each suite's
signature and each package's sum, and the machine's own sources and lists stay as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The generic image, not the cloud one: the VM's root comes over 9p, which the cloud image does not have.
META_PACKAGE = "linux-image-amd64"
# What holds vmlinuz or modules, or leads to what does: 7.x is split into image (empty), binary, modules and base.
KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules|base)-\d\S*")


class KernelError(Exception):
    """What to tell the user, in one sentence."""


@dataclass(frozen=True)
class Series:
    """A series of kernels, and the Debian suites that have its newest version."""

    name: str
    suites: tuple[str, ...]

    def has(self, version: str) -> bool:
        return version.startswith(self.name.removesuffix("x").removesuffix(".") + ".")


SERIES = {
    series.name: series
    for series in (
        Series("6.1", ("bookworm", "bookworm-security")),
        Series("6.12", ("bookworm-backports",)),
        Series("7.x", ("sid",)),
    )
}


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: folder that holds boot/ or lib/, and release as `uname -r` prints it."""

    series: str
    folder: Path
    release: str

    @property
    def image(self) -> Path:
        for place in (self.folder / "boot" / f"vmlinuz-{self.release}", self.modules / "vmlinuz"):
            if place.exists():
                return place
        raise KernelError(f"no vmlinuz in {self.folder}: remove the folder and fetch it again")

    @property
    def modules(self) -> Path:
        return self.folder / "lib" / "modules" / self.release


def cache_folder() -> Path:
    return Path(os.environ.get("FIPLANE_KERNEL_CACHE") or ROOT / "build" / "kernels").absolute()


def cached(series: str) -> Kernel | None:
    """The kernel that an earlier fetch left, if there is one."""
    folder = cache_folder() / series
    mark = folder / "release"  # written last
    return Kernel(series, folder, mark.read_text().strip()) if mark.exists() else None


def fetch(series: str, update: bool = False, say=print) -> Kernel:
    """The newest kernel of a series: the cached one, or (none there, or update) what Debian has now."""
    old = cached(series)
    if old and not update:
        return old
    with tempfile.TemporaryDirectory(prefix="apt-", dir=_made(cache_folder())) as scratch:
        apt = _Apt(Path(scratch), SERIES[series])
        apt.update()
        packages = apt.kernel_packages()
        release = packages[0].removeprefix("linux-image-")
        if old and old.release == release:
            say(f"{series}: {release} is Debian's newest")
            return old
        say(f"{series}: fetching {' '.join(packages)}")
        fresh = Path(scratch) / "root"
        for package in apt.download(packages):
            _run(["dpkg-deb", "--extract", str(package), str(fresh)])
        _prepare(fresh, release)
        target = cache_folder() / series
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return Kernel(series, target, release)


def _prepare(folder: Path, release: str) -> None:
    """What an installation would have done: the merged /usr's link, and the modules' index."""
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")
    depmod = shutil.which("depmod", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if depmod is None:
        raise KernelError("depmod is missing: run tools/install-deps --vm")
    _run([depmod, "-a", "-b", str(folder), release])
    (folder / "release").write_text(release + "\n")


class _Apt:
    """apt with sources, lists and cache of its own below a folder."""

    def __init__(self, folder: Path, series: Series) -> None:
        self.series = series
        self.archives = _made(folder / "archives")
        for name in ("lists/partial", "cache/archives/partial"):
            _made(folder / name)
        sources = folder / "sources.list"
        sources.write_text("".join(_source(suite) for suite in series.suites))
        configuration = folder / "apt.conf"
        # /dev/null stands for "none". The machine's apt.conf still counts: it may name a proxy.
        configuration.write_text(
            f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferences "/dev/null";\nDir::Etc::preferencesparts "/dev/null";\n'
            f'Dir::State::lists "{folder}/lists";\nDir::Cache "{folder}/cache";\n'
            'Acquire::Languages "none";\nAPT::Sandbox::User "";\nAPT::Architecture "amd64";\n'
        )
        self.environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}

    def _apt(self, *command: str) -> str:
        return _run(list(command), env=self.environment, cwd=self.archives)

    def update(self) -> None:
        self._apt("apt-get", "update", "-qq", "--error-on=any")

    def kernel_packages(self) -> list[str]:
        """The newest kernel's packages, the image first."""
        found: list[str] = []
        waiting = [META_PACKAGE]
        while waiting:
            text = self._apt("apt-cache", "depends", "--important", waiting.pop())
            for name in re.findall(r"^\s*Depends: (\S+)", text, re.MULTILINE):
                if KERNEL_PACKAGE.fullmatch(name) and name not in found:
                    found.append(name)
                    waiting.append(name)
        images = [name for name in found if name.startswith("linux-image-")]
        version = images[0].removeprefix("linux-image-") if images else "none"
        if not self.series.has(version):
            raise KernelError(
                f"{META_PACKAGE} of {', '.join(self.series.suites)} is now {version}, not {self.series.name}: "
                "name the suite that has this series in vmtests/kernels.py"
            )
        return images + [name for name in found if name not in images]

    def download(self, packages: list[str]) -> list[Path]:
        self._apt("apt-get", "download", "-qq", *packages)
        return sorted(self.archives.glob("*.deb"))


def _source(suite: str) -> str:
    """One line of sources.list, with the machine's own mirror. None for a security suite that the machine has not: its
    kernels come with the next point release of Debian, too."""
    mirrors = _machine_mirrors()
    mirror = mirrors.get(suite) or (None if suite.endswith("-security") else mirrors.get("bookworm"))
    if mirror is None and not suite.endswith("-security"):
        raise KernelError("no source for Debian 12 (bookworm) in /etc/apt: add one, then run this again")
    return f"deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n" if mirror else ""


def _machine_mirrors() -> dict[str, str]:
    """Suite to mirror, of what the machine's own apt has."""
    text = _run(["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Identifier: Packages"])
    return dict(line.split() for line in reversed(text.splitlines()) if len(line.split()) == 2)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: list[str], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout
