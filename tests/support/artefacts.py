# SPDX-License-Identifier: Apache-2.0
"""What is kept of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator


def keep_on_failure(item, root: Path, fixture: str, prefix: str) -> Iterator[None]:
    """The body of a conftest's pytest_runtest_makereport (a hookwrapper): if the test itself fails, what `fixture` gave it
    collects into a directory below `root`."""
    outcome = yield
    report = outcome.get_result()
    collector = getattr(item, "funcargs", {}).get(fixture)
    if report.when == "call" and report.failed and collector is not None:
        directory = root / f"{prefix}-{item.name}".replace("/", "_")
        collector.collect(directory)
        report.sections.append(("artefacts", str(directory)))
