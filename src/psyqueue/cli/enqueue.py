"""`psyqueue enqueue NAME [PAYLOAD]`."""

from __future__ import annotations

import difflib
import sys
from datetime import datetime
from typing import Any

import click
import msgspec

from psyqueue import PsyQueue
from psyqueue.cli import output
from psyqueue.cli.surface import DONE, Surface, as_application, work_on


def instant(text: str) -> datetime:
    """An ISO time with its zone. Raises BadParameter for text that is no time, or one that leaves its zone open."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not an ISO time such as 2026-12-01T09:00:00Z") from exc
    if found.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no time zone; write e.g. {text}Z")
    return found


@click.command()
@click.argument("name")
@click.argument("payload", required=False)
@click.option("--queue", help="That of the handler by default; without --app, the name of the job.")
@click.option("--delay", metavar="DURATION", help="Start no earlier than in e.g. 30s, 5m, 24h.")
@click.option("--run-at", type=instant, metavar="ISO", help="Start no earlier than at e.g. 2026-12-01T09:00:00Z.")
@click.option("--expires", metavar="DURATION", help="Dead if not started by then.")
@click.option("--timeout", metavar="DURATION", help="For each run.")
@click.option("--priority", type=int, help="Higher runs first; 0 by default.")
@click.option("--max-retries", type=int, help="Runs after the first; 3 by default.")
@click.option("--id", help="An id of your own: the same enqueue again finds the job.")
@click.option("--idempotency-key", help="One job per key in 24 hours.")
@click.option("--unique-key", help="One unfinished job per key.")
@click.option("--order-key", help="Jobs of one key run one after the other.")
@click.option("--tenant", help="Whose job it is.")
@click.option("--lane", help="The share of the queue it belongs to; the tenant by default.")
@click.option("--depends-on", multiple=True, metavar="ID", help="Wait for this job to complete; may be repeated.")
@as_application
def enqueue(surface: Surface, name: str, payload: str | None, **options: Any) -> int:
    """Enqueue the job NAME with PAYLOAD, a JSON value; - reads it from standard input."""
    value = _payload(payload)
    queue = surface.producer()
    _note_unknown(surface, queue, name)
    given = {option: chosen for option, chosen in options.items() if chosen not in (None, ())}

    async def work(queue: PsyQueue) -> int:
        handle = await queue.enqueue(name, value, **given)
        if surface.is_json:
            output.print_json({"id": handle.id, "created": handle.created})
        else:
            click.echo(handle.id)
            if not handle.created:
                output.say("psyqueue: this job was there before; nothing was enqueued")
        return DONE

    return work_on(queue, work)


def _note_unknown(surface: Surface, queue: PsyQueue, name: str) -> None:
    """Another process may have the handler, so it is no error; but it may be a slip of the pen."""
    handlers = queue._core.handlers  # noqa: SLF001 - an operator looks at what an application knows
    if surface.app is None or handlers.find(name) is not None:
        return
    close = difflib.get_close_matches(name, [spec.name for spec in handlers.all()], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    output.say(f"psyqueue: {surface.app} has no handler for {name!r}{hint}")


def _payload(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(sys.stdin.read() if text == "-" else text)
    except msgspec.DecodeError as exc:
        raise click.UsageError(f"PAYLOAD is not JSON ({exc}). Text needs quotes of its own: '\"text\"'") from exc
