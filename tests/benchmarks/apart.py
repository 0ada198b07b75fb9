"""Work in a process of its own, which may crash or hang; it prints what it found as JSON."""

import json
import subprocess
import sys
from typing import Any


def found_apart(seconds: float, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON of the last line that `python ARGUMENTS` prints; else nothing, and why.

    Args:
        seconds: how long it may take.
        arguments: those of the interpreter.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {}, f"more than {seconds} seconds"
    if done.returncode:
        return {}, f"crashed: {done.stderr[-500:]}"
    return json.loads(done.stdout.splitlines()[-1]), ""
