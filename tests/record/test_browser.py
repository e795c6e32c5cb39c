"""TensorBoard on a real run in a real browser: needs selenium, Chromium and its driver, and is skipped without them."""

import io
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import matplotlib.image
import numpy as np
import pytest

from pgtorch import TrainConfig, train
from pgtorch.record.metrics import read_metrics

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="no chromedriver"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(TrainConfig(run_dir=tmp_path_factory.mktemp("runs") / "lesson")).run_dir


@contextmanager
def serving(folder):
    """The address of a TensorBoard on a folder."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", "--host", "localhost"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        for line in server.stderr:
            if found := re.search(r"http://localhost:\d+/", line):
                yield found[0]
                break
        server.terminate()


@pytest.fixture(scope="module")
def board(run):
    with serving(run.parent) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1500,1300"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def shown(browser, address, text):
    """Wait until a page shows a text, in whatever component."""
    browser.get("about:blank")
    browser.get(address)
    everything = """const seen = []; const walk = node => { for (const child of node.childNodes) {
        if (child.nodeType === 3) seen.push(child.data); walk(child); if (child.shadowRoot) walk(child.shadowRoot); } };
        walk(document); return seen.join(' ');"""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        page = re.sub(r"\s+", " ", browser.execute_script(everything))
        if text in page:
            return page
        time.sleep(0.5)
    raise AssertionError(f"{text!r} is not on {address}: {page[:2000]}")


def test_the_first_screen_shows_the_bias_going_from_0_to_minus_10(browser, board):
    """Nothing clicked, in the window of a small laptop: the chart is on the screen, and the curve's pixels in it."""
    browser.set_window_size(1280, 800)
    shown(browser, board, "episode")
    finder = """const chart = document.querySelector('scalar-card line-chart');
        const box = node => node.getBoundingClientRect();
        if (!chart || !document.querySelector('scalar-card .tag')) return null;
        const ticks = [...chart.querySelectorAll('.y-axis .minor-tick-label text')];
        return {title: document.querySelector('scalar-card .tag').title, height: innerHeight,
                chart: box(chart.querySelector('.series-view')), ticks: ticks.map(tick => [+tick.textContent,
                +tick.getAttribute('y') + box(chart.querySelector('.series-view')).top])};"""
    deadline = time.monotonic() + 40
    while not (found := browser.execute_script(finder)) or len(found["ticks"]) < 3:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    time.sleep(2)  # the curve follows its axis
    chart, rows = found["chart"], dict(found["ticks"])
    assert found["title"] == "bias/bias"
    assert 0 <= chart["top"] < chart["bottom"] <= found["height"]
    assert chart["top"] <= rows[0] < rows[-10] <= chart["bottom"]
    pixels = matplotlib.image.imread(io.BytesIO(browser.get_screenshot_as_png()))[..., :3].max(axis=2)
    left, right = round(chart["left"]), round(chart["right"])
    width, unit = right - left, (rows[-10] - rows[0]) / 10
    dark = [(y, x) for y, x in np.argwhere(pixels < 0.5) if chart["top"] <= y < chart["bottom"] and left <= x < right]
    start = [y for y, x in dark if x - left < 0.2 * width]
    assert min(start) == pytest.approx(rows[0], abs=3)
    late = [y for y, x in dark if 0.5 * width < x - left < 0.85 * width]
    assert np.mean(late) == pytest.approx(rows[-10], abs=1.5 * unit)


def test_the_bias_is_on_the_page_with_its_last_value(browser, board, run):
    shown(browser, f"{board}#custom_scalars", "The bias")
    fetch = "return fetch('data/plugin/scalars/scalars?run=lesson&tag=policy/bias').then(answer => answer.json())"
    points = browser.execute_script(fetch)
    last = read_metrics(run)[-1]
    assert points[-1][1] == last["env_steps"]
    assert points[-1][2] == pytest.approx(last["policy/bias"], rel=1e-6)


@pytest.mark.parametrize(
    ("tab", "text"),
    [
        ("custom_scalars", "The gradient by autograd"),
        ("custom_scalars", "The gradient by hand"),
        ("hparams", "env_kwargs.hungry_above"),
        ("hparams", "episode/mean_return"),
        ("text", "The one parameter of the lesson"),
        ("images", "pictures/expected_reward"),
    ],
)
def test_tabs_show_what_they_should(browser, board, tab, text):
    shown(browser, f"{board}#{tab}", text)


def test_settings_in_which_runs_differ_come_first_and_then_the_outcome(browser, tmp_path):
    """Nothing clicked; the last bias and the mean return of the last half are the outcome."""
    settings = {"seed": 3, "learning_rate": 0.1, "start_bias": 2.0, "weight": 10.0, "env_kwargs": {"hungry_above": 0.3}}
    runs = [
        train(TrainConfig(num_updates=9, run_dir=tmp_path / name, **kw)) for name, kw in (("a", {}), ("b", settings))
    ]
    columns = [
        "env_kwargs.hungry_above",
        "learning_rate",
        "seed",
        "start_bias",
        "weight",
        "bias/bias",
        "episode/mean_return",
    ]
    with serving(tmp_path) as address:
        table = shown(browser, f"{address}#hparams", "Show Metrics").partition("Show Metrics")[2]
    assert table.split()[: len(columns)] == columns
    for result in runs:
        assert f"{result.policy.bias.item():.4f}" in table
