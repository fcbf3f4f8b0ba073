"""CPython 3.9 and 3.10, without smmap: if two signals come in one `os.stat`, it may end in a SystemError.

It multiplies integers, which runs the handlers of signals; if that of the first one raises, it multiplies others before
it looks for an error, and runs the next handler with the exception set. smmap raises the cause: see
`_system.raised_by_handler`.

`python tests/core/_stat_under_alarms.py FILE` ends with status 1 within seconds there, with 0 on 3.11 and later.
"""

from __future__ import annotations

import os
import signal
import sys
import time


class Alarm(Exception):
    pass


armed = False


def ring(*_args: object) -> None:
    global armed
    if armed:
        armed = False
        raise Alarm


def look(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def work(path: str, end: float) -> None:
    global armed
    while time.time() < end:
        armed = True
        look(path)
        armed = False


def main(path: str, seconds: float) -> int:
    global armed
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    end = time.time() + seconds
    try:
        while time.time() < end:
            try:
                work(path, end)
            except Alarm:
                pass
    except SystemError as error:
        armed = False
        print(f"{sys.version.split()[0]}: SystemError: {error}; caused by {error.__cause__!r}")
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], 20))
