"""`what-next demo`: trains a model and opens it in the browser."""

import gc
import signal
import threading
import time
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from what_next.cli.interrupts import quietly
from what_next.errors import Plain

app = typer.Typer()


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; where it is taken, a free one.")] = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> int:
    """Show What Next? in the browser: a model that is trained now, and simulated listeners.

    Nothing is downloaded, and no file is left behind. Ctrl-C ends it.
    """
    people, began = Plain(stderr=True, soft_wrap=True, highlight=False), time.monotonic()
    with people.status("Loading the libraries ..."), quietly():
        from what_next.serving.demo import LOG, WORLD, Listeners, free, learning, trained
        from what_next.serving.http.run import serve

    signal.signal(signal.SIGHUP, signal.default_int_handler)  # clean up, too, when the terminal is closed
    with TemporaryDirectory(prefix="what-next-demo-") as folder, ExitStack() as stack:
        with people.status(f"Training on what {LOG:,} simulated listeners heard and skipped ..."):
            setup = free(trained(Path(folder), time.time_ns() // 1000, port))
        status = stack.enter_context(people.status("Opening the service ..."))

        def ready(facts: dict[str, Any]) -> None:
            status.stop()
            address = facts["address"]
            people.print(f"{address} after {time.monotonic() - began:.0f} s: open it in a browser; Ctrl-C ends it")
            listeners = Listeners(address)
            stack.callback(listeners.stop)
            listeners.start()
            stack.enter_context(learning(Path(folder) / "setup.txt"))
            if browser:
                threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()

        def log(lines: str) -> None:
            for line in lines.splitlines():
                if '"error"' in line:  # other requests are not shown, as they would scroll the address away
                    people.print(line)

        stack.callback(gc.unfreeze)  # training loaded triton, which complains about frozen objects at exit
        serve(setup, ready, lambda done, total: None, people.print, WORLD, log)
    return 0
