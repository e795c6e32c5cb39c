"""The page: its numbers against `steps.py` and `model.py`, in Chromium; its links, lines of code and size without one.

What needs a browser needs selenium, Chromium and its driver too, and is skipped without them.
"""

import ast
import importlib.util
import io
import itertools
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from support import ROOT

from pgtorch.commands import lesson
from pgtorch.lesson.model import RestaurantModel
from pgtorch.lesson.page import PAGE
from pgtorch.lesson.steps import LEARNING_RATE, MODEL, WORKED_EXAMPLE, Visit, draw_place, take_step
from pgtorch.policies import BiasPolicy
from restaurant_env import Restaurant
from restaurant_env.restaurant import is_hungry, reward_of, serves_large, significance

TEXT = PAGE.read_text(encoding="utf-8")
needs_browser = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("selenium") is None or shutil.which("chromedriver") is None,
        reason="no selenium, or no chromedriver",
    ),
    pytest.mark.filterwarnings("default"),
]


class Elements(HTMLParser):
    """Every tag with its attributes, and the text of each line of code by its file and name."""

    def __init__(self):
        super().__init__()
        self.tags, self.code, self._open = [], [], False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "code" and "data-file" in attrs:
            self.code.append([attrs["data-file"], attrs["data-name"], ""])
            self._open = True

    def handle_data(self, data):
        if self._open:
            self.code[-1][2] += data

    def handle_endtag(self, tag):
        self._open = self._open and tag != "code"


@pytest.fixture(scope="module")
def elements():
    parser = Elements()
    parser.feed(TEXT)
    return parser


# Without a browser


def source_of(file, name):
    """The source of a function or method, "take_step" or "SGD.step"."""
    source = (ROOT / file).read_text()
    found = ast.parse(source)
    for part in name.split("."):
        (found,) = (node for node in found.body if getattr(node, "name", None) == part)
    return ast.get_source_segment(source, found)


def test_lines_of_code_stand_where_the_page_says(elements):
    assert len(elements.code) == 16
    for file, name, line in elements.code:
        lines = [text.split("  #")[0].strip() for text in source_of(file, name).splitlines()]
        assert line in lines, f"{line!r} is not a line of {name} in {file}"


def test_nothing_is_loaded():
    assert "http:" not in TEXT
    assert "https:" not in TEXT
    assert not re.search(r"\bsrc=|\burl\(|@import|<link(?! rel=\"icon\" href=\"data:,\")|fetch\(|XMLHttp|import\(", TEXT)
    assert "default-src 'none'" in TEXT  # the browser refuses the rest


def test_it_stays_readable():
    lines = TEXT.splitlines()
    assert len(lines) < 1200
    assert len(TEXT.encode()) < 100_000
    assert max(map(len, lines)) < 200


def test_links_labels_and_ids(elements):
    ids = [attrs["id"] for _, attrs in elements.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in elements.tags:
        if tag == "a":
            assert attrs["href"][0] == "#"
            assert attrs["href"][1:] in ids
        for reference in ("for", "aria-labelledby", "aria-describedby"):
            assert attrs.get(reference) is None or attrs[reference] in ids


def test_it_is_installed_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert str(PAGE.relative_to(ROOT / "pgtorch")) in settings["tool"]["setuptools"]["package-data"]["pgtorch"]


@pytest.fixture
def browser_command(tmp_path, monkeypatch):
    """A browser for `webbrowser`: a program that writes the address it is given to a file."""
    program, opened = tmp_path / "browser", tmp_path / "opened"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    program.chmod(0o755)
    return program, opened


def run_page(**environment):
    command = [sys.executable, str(ROOT / "scripts" / "lesson.py"), "--page"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_the_command_opens_it(browser_command):
    program, opened = browser_command
    done = run_page(**os.environ, BROWSER=str(program))
    assert (done.returncode, done.stderr) == (0, "")
    assert str(PAGE) in done.stdout
    assert opened.read_text().strip() == PAGE.as_uri()


@pytest.mark.skipif(sys.platform != "linux", reason="there is always a browser")
def test_without_a_browser_it_says_what_to_open(tmp_path):
    done = run_page(PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"open this file in one, {PAGE.as_uri()}" in done.stdout


@pytest.mark.parametrize("flags", ["--page --act 2", "--page --hunger 0.3", "--no-pause --page"])
def test_page_takes_no_other_flag(flags, capsys):
    with pytest.raises(SystemExit) as end:
        lesson.main(flags.split())
    assert end.value.code == 2
    assert "page opens the browser and takes no other flag" in capsys.readouterr().err


def test_the_readme_shows_and_links_it():
    readme = (ROOT / "README.md").read_text()
    assert "(docs/page.png)" in readme
    assert "(pgtorch/lesson/page.html)" in readme
    assert "pgtorch lesson --page" in readme
    assert (ROOT / "docs" / "page.png").stat().st_size < 60_000


# In the browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium):
    """The page as it opens, at 1280 x 720 in light colors; without errors at the end."""
    show(chromium)
    yield chromium
    assert [entry["message"] for entry in chromium.get_log("browser")] == []


def show(chromium, width=1280, height=720, **features):
    """Open the page in a window of a size, with media features such as prefers_color_scheme="dark"."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers_color_scheme": "light", "prefers_reduced_motion": "no-preference", **features}
    media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    chromium.get(PAGE.as_uri())


# `read(root)` gives [name, value, text] of each number shown; `put(id, value)` types into a field.
TOOLS = """
const read = root => [...document.querySelectorAll(root + ' [data-number]')].filter(e => 'value' in e.dataset)
  .map(e => [e.dataset.number, e.dataset.value, e.textContent, Number(e.dataset.digits ?? 6)]);
const put = (id, value) => {
  const field = document.getElementById(id);
  field.value = String(value);
  field.dispatchEvent(new Event('input', { bubbles: true }));
};
"""


def read(page, root):
    """The numbers shown in a part of the page, by name, after a check that their texts say the same."""
    return numbers_of(page.execute_script(TOOLS + "return read(arguments[0])", root))


def numbers_of(shown):
    numbers = {}
    for name, value, text, digits in shown:
        value = float(value)
        assert numbers.setdefault(name, value) == value or math.isnan(value), f"{name} is shown with two values"
        if math.isfinite(value):
            step = 0.5 * 10.0**-digits if "e" not in text else 0.006 * abs(value)
            assert abs(float(text.replace("−", "-")) - value) <= step * (1 + 1e-9), (name, value, text)
    return numbers


def require_equal(shown, expected):
    for name, value in shown.items():
        assert math.isclose(value, expected[name], rel_tol=1e-12, abs_tol=1e-300), (name, value, expected[name])


def policy_with(weight, bias):
    policy = BiasPolicy().double()
    with torch.no_grad():
        policy.weight.fill_(weight)
        policy.bias.fill_(bias)
    return policy


def expected_numbers(setting):
    """What `steps.py` says to a setting of the fields, by the page's names."""
    s = setting
    steps = {}
    for large in (True, False):
        visit = Visit(s["hunger"], s["draw"], large)
        policy = policy_with(s["weight"], s["bias"])
        steps[large] = take_step(policy, visit, reward_scale=s["size"], learning_rate=s["rate"])
    step = steps[s["large"]]
    good, bad = sorted(steps.values(), key=lambda step: -step.reward)
    chance_large = MODEL.large_portion_probability[step.place]
    chances = {True: chance_large, False: 1 - chance_large}
    numbers = {key: value for key, value in step._asdict().items() if isinstance(value, float)}
    mean_step = -s["rate"] * sum(chances[large] * steps[large].manual for large in steps)
    return numbers | {
        "hunger": s["hunger"],
        "draw": s["draw"],
        "weight": s["weight"],
        "learningRate": s["rate"],
        "dce_dz": step.dce_db,  # since dz/db = 1
        "updated": step.manual,
        "plus.new_bias": good.new_bias,
        "minus.new_bias": bad.new_bias,
        "mean_step": mean_step,
    }


def random_setting(generator):
    return {
        "hunger": generator.choice([0.0, 1.0, 0.5, generator.random(), generator.random()]),
        "bias": generator.uniform(-20, 20),
        "weight": generator.choice([20.0, generator.uniform(0, 40)]),
        "draw": generator.random(),
        "size": generator.choice([1.0, 2.0, generator.uniform(0.1, 4)]),
        "rate": generator.choice([1.0, generator.uniform(0.01, 2)]),
        "large": generator.random() < 0.5,
    }


SHOWN_FOR_A_VISIT = {
    *("hunger", "bias", "weight", "draw", "learningRate", "z", "p_norm", "p_squatch", "ce", "dce_dp", "dp_dz", "dz_db"),
    *("dce_dz", "dce_db", "reward", "updated", "new_bias", "new_p_norm", "plus.new_bias", "minus.new_bias", "mean_step"),
}


class TestInTheBrowser:
    pytestmark = needs_browser

    def test_numbers_of_1000_settings(self, page):
        generator = random.Random(0)
        settings = [random_setting(generator) for _ in range(1000)]
        script = """
        document.getElementById('all-steps').click();
        return arguments[0].map(({ large, ...fields }) => {
          document.getElementById(large ? 'order-large' : 'order-small').checked = true;
          for (const [id, value] of Object.entries(fields)) document.getElementById(id).dataset.used = value;
          put('hunger', fields.hunger);
          return ['#visit', '#factors', '#why-reward'].flatMap(read);
        });"""
        for setting, shown in zip(settings, page.execute_script(TOOLS + script, settings), strict=True):
            numbers = numbers_of(shown)
            assert set(numbers) == SHOWN_FOR_A_VISIT
            require_equal(numbers, expected_numbers(setting))
