"""Where peers live: most in the environment of the harness, some in one of their own in the cache.

The cache lies beside this file and is ignored by git. Nothing is installed for a peer that is not asked for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.spec import Peer, Spec

CACHE = Path(__file__).with_name(".cache")
PEERS = Path(__file__).with_name("peers")
INSTALL_S_MAX = 600


def prepare(peer: Peer, *, is_offline: bool) -> str:
    """Why a peer cannot be measured; empty: it can. Installs what is missing into the cache, unless offline."""
    if peer.home == "here":
        return "" if find_spec(peer.module) else "not installed"
    if peer.home == "tool":
        return "" if shutil.which(peer.name) else "not installed"
    if _is_there(peer):
        return ""
    if is_offline:
        return "not in the cache, and nothing is installed offline"
    if peer.home == "node" and shutil.which("npm") is None:
        return "there is no node with npm"
    try:
        for command in _install(peer):
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
            if done.returncode:
                return f"could not be installed: {(done.stderr or done.stdout).strip()[-300:]}"
    except (OSError, subprocess.SubprocessError) as exc:
        return f"could not be installed: {exc}"
    return "" if _is_there(peer) else "could not be installed"


def python_of(spec: Spec) -> str:
    """The interpreter that measures."""
    own = _venv(spec.peer) / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def versions(peer: Peer) -> dict[str, str | None]:
    """Of the packages of a peer that lives in the cache; None: not there."""
    if peer.home == "node":
        return {name: _node_version(peer, name) for name in peer.packages}
    if peer.home == "tool":
        done = subprocess.run([peer.name, "--version"], capture_output=True, text=True, check=False)
        return {peer.name: done.stdout.strip() or None}
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    try:
        command = [str(_venv(peer.name) / "bin" / "python"), "-c", code, *peer.packages]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return dict.fromkeys(peer.packages)
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def _venv(peer: str) -> Path:
    return CACHE / f"venv-{peer}"


def _is_there(peer: Peer) -> bool:
    pinned = json.loads(_packages(peer).read_text(encoding="utf-8"))["dependencies"] if peer.home == "node" else {}
    found = versions(peer)
    return all(found.values()) and all(pinned.get(name, known) == known for name, known in found.items())


def node_folder(store: str) -> Path:
    """Where the node packages of a store's peers lie."""
    return CACHE / f"node-{store}"


def _packages(peer: Peer) -> Path:
    return PEERS / peer.node / "package.json"


def _node_version(peer: Peer, name: str) -> str | None:
    file = node_folder(peer.node) / "node_modules" / name / "package.json"
    if not file.exists() or shutil.which("node") is None:
        return None
    version: str = json.loads(file.read_text(encoding="utf-8"))["version"]
    return version


def _install(peer: Peer) -> list[list[str]]:
    if peer.home == "node":
        folder = node_folder(peer.node)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(_packages(peer), folder)
        return [["npm", "install", "--prefix", str(folder), "--no-package-lock", "--no-audit", "--no-fund"]]
    venv = _venv(peer.name)
    return [
        [sys.executable, "-m", "venv", str(venv)],
        [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", *peer.requirements],
    ]
