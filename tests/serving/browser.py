"""A real browser before a real service: how the tests of the page see it.

A test module imports the fixtures that it needs. They last for one module, not for the whole run: while Playwright is
there, its event loop runs in the main thread, and a test elsewhere could not start one of its own.
"""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from .models import data_of, served

if TYPE_CHECKING:
    from what_next import Setup
    from what_next.serving.engine import Engine
    from what_next.serving.store import Store, Writer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE_MODEL = "sqn"
CI = os.environ.get("CI") == "true"


@dataclass
class Seen:
    """One tab, and what happened behind it.

    Attributes:
        page: Playwright's.
        base: the address of the service.
        asked: the requests, as method and address. `complaints`: what the console was told.
        failing: whether this test makes requests fail on purpose, which the browser's console tells.
    """

    page: Any
    base: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    failing: bool = False

    def titles(self, policy: str) -> list[str]:
        """What a list holds, best first."""
        found: list[str] = self.page.locator(f".list.{policy} .item h4 cite").all_text_contents()
        return found

    def settled(self) -> None:
        """Waits until nothing is on its way."""
        self.page.wait_for_function(
            "() => document.querySelector('.list') && !document.querySelector('[aria-busy=true]')"
        )

    def changed(self, act: Callable[[], object], policy: str = "trained") -> list[str]:
        """Does something, waits until a list is another one, and gives it."""
        before = self.titles(policy)
        act()
        self.page.wait_for_function(
            "([policy, before]) => [...document.querySelectorAll(`.list.${policy} h4 cite`)].map((e) => e.textContent)"
            ".join() !== before",
            arg=[policy, ",".join(before)],
        )
        self.settled()
        return self.titles(policy)

    def search(self, box: str, text: str, option: str) -> None:
        """Types into a search and takes an option by its words, with the keyboard alone."""
        self.page.locator(f"#{box}").focus()
        self.page.keyboard.type(text)
        self.page.locator(f"#{box}-options [role=option]").filter(has_text=option).first.wait_for()
        for _ in range(21):
            self.page.keyboard.press("ArrowDown")
            active = self.page.locator(f"#{box}-options [aria-selected=true]")
            if active.count() and active.inner_text() == option:
                return self.page.keyboard.press("Enter")
        raise AssertionError(f"no option {option}")

    def add(self, title: str) -> None:
        """Adds a title to the history, and waits until the history tells it."""
        self.search("titles", title, title)
        self.page.locator(".events li").filter(has_text=title).first.wait_for()
        self.settled()


@dataclass(frozen=True)
class Parts:
    """What stands behind the service."""

    setup: "Setup"
    engine: "Engine"
    store: "Store"
    writer: "Writer"


@pytest.fixture(name="parts", scope="module")
def parts_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A trained model, and a store with the histories that it was trained on."""
    from what_next.serving.engine import Engine
    from what_next.serving.store import Store, Writer, store_of

    setup = served(tmp_path_factory.mktemp("page"), PAGE_MODEL, deadline=5000)
    store = Store.open(store_of(setup))
    store.load_histories(data_of(setup))
    writer = Writer(store)
    engine = Engine(setup, store, writer)
    yield Parts(setup, engine, store, writer)
    engine.close()
    writer.close()
    store.close()


@contextmanager
def listening(parts: Parts, setup: "Setup") -> Iterator[str]:
    """The service on a free port, in a thread; gives its address."""
    import uvicorn

    from what_next.serving.http import parts as of_http
    from what_next.serving.http.app import Application

    app = Application(of_http.Parts(setup.server, parts.engine, parts.store, parts.writer))
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    app.parts.close()
    bound.close()


@pytest.fixture(name="service", scope="module")
def service_fixture(parts: Parts) -> Iterator[str]:
    """The address of a service that asks for no key."""
    with listening(parts, parts.setup) as base:
        yield base


@pytest.fixture(name="locked", scope="module")
def locked_fixture(parts: Parts) -> Iterator[tuple[str, str]]:
    """The address of one that does, on the same store, and a key that may read and write."""
    from what_next.serving.http.callers import digest_of, new_key

    key = new_key()
    parts.store.add_key("page", "write", digest_of(key))
    setup = parts.setup.model_copy(update={"server": parts.setup.server.model_copy(update={"keys": "yes"})})
    with listening(parts, setup) as base:
        yield base, key


def _without(what: str) -> NoReturn:
    message = f"{what} is missing: `make browser` brings it where it can, and says what to do where it cannot"
    if CI:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(name="browser", scope="module")
def browser_fixture() -> Iterator[Any]:
    """A headless Chromium."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        _without("a browser (Chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _without("Playwright for Python")
    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses the administrator
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield found
        found.close()


Opens = Callable[..., Seen]


@pytest.fixture(name="opens")
def opens_fixture(browser: Any, service: str) -> Iterator[Opens]:
    """Opens the page in a tab of its own. At the end no tab may have asked elsewhere or complained."""
    tabs: list[Seen] = []

    def open_one(base: str = service, **options: Any) -> Seen:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(10_000)
        seen = Seen(context.new_page(), base)
        seen.page.on("request", lambda request: seen.asked.append((request.method, request.url)))
        seen.page.on("console", lambda said: seen.complaints.append(said.text) if said.type != "log" else None)
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        tabs.append(seen)
        seen.page.goto(f"{base}/")
        return seen

    yield open_one
    for seen in tabs:
        seen.page.unroute_all(behavior="wait")  # the page asks again every 5 s; a handler must not outlive its tab
        seen.page.context.close()
        assert [url for _, url in seen.asked if not url.startswith(f"{seen.base}/")] == []
        expected = "Failed to load resource" if seen.failing else "-"
        assert [text for text in seen.complaints if not text.startswith(expected)] == []


@pytest.fixture(name="tab")
def tab_fixture(opens: Opens) -> Seen:
    """The page as somebody new sees it on a wide screen, its lists there."""
    seen = opens()
    seen.settled()
    return seen
