"""Runs the session of one page: block after block in one module, with `await` at top level.

Standard input: a JSON list of [first line, code]. Standard output: a JSON list of what each block printed.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import sys
import types

from psyqueue import PsyQueue


async def run(page: str, blocks: list[tuple[int, str]]) -> list[str]:
    """What each block printed. Queues that are still open at the end are stopped."""
    module = types.ModuleType("session")
    sys.modules["session"] = module
    printed = []
    try:
        for line, code in blocks:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                # Moved down, so that a traceback names the line of the page.
                compiled = compile("\n" * (line - 1) + code, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                awaited = eval(compiled, module.__dict__)
                if awaited is not None:
                    await awaited
            printed.append(out.getvalue())
    finally:
        for value in list(vars(module).values()):
            if isinstance(value, PsyQueue) and value.is_running:
                await value.stop(grace=0)
    return printed


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], json.load(sys.stdin)))))
