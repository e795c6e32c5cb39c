"""The lesson as a page for the browser: one file, which needs neither a server nor the network."""

from __future__ import annotations

import webbrowser
from pathlib import Path

PAGE = Path(__file__).with_name("page.html")


def open_page() -> bool:
    """Open the page in the browser that the system, or the variable BROWSER, names; False if there is none."""
    return webbrowser.open(PAGE.as_uri())
