"""Handlers that run in processes of their own: these import them by name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from psyqueue import Context, Depends


def folder(ctx: Context) -> Iterator[Path]:
    made = Path(ctx.job.meta["folder"])
    (made / "opened").write_text(str(os.getpid()))
    yield made
    (made / "closed").write_text(str(os.getpid()))


async def number(ctx: Context, *, where: Path = Depends(folder)) -> AsyncIterator[int]:
    yield ctx.attempt + len(where.suffix)


def plain(name: str, *, where: Path = Depends(folder), attempt: int = Depends(number)) -> str:
    return f"{name} in {where.name}, attempt {attempt}"


async def asynchronous(name: str, *, where: Path = Depends(folder)) -> str:
    return f"{name} in {where.name}"


def with_app(ctx: Context) -> str:
    return str(ctx.app)


def greet(who: str) -> str:
    return f"hello {who}"
