"""The page: its numbers against `steps.py` and `model.py`, in Chromium; its links, lines of code and size without one.

What needs a browser needs selenium, Chromium and its driver too, and is skipped without them.
"""

import ast
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
from PIL import Image
from support import ROOT

from pgtorch.commands import lesson
from pgtorch.config import TrainConfig
from pgtorch.gradient_check import LIMIT
from pgtorch.lesson.model import RestaurantModel
from pgtorch.lesson.page import PAGE
from pgtorch.lesson.steps import LEARNING_RATE, MODEL, WORKED_EXAMPLE, Visit, draw_place, take_step
from pgtorch.policies import BiasPolicy
from restaurant_env import Restaurant
from restaurant_env.restaurant import is_hungry, reward_of, serves_large, significance

try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait
except ImportError:
    webdriver = None

TEXT = PAGE.read_text(encoding="utf-8")
needs_browser = [
    pytest.mark.long,
    pytest.mark.skipif(webdriver is None or shutil.which("chromedriver") is None, reason="no selenium or chromedriver"),
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


def test_constants_named_in_words(elements):
    notes = [attrs["data-note"] for tag, attrs in elements.tags if tag == "code" and "data-note" in attrs]
    assert any(f"LIMIT is {LIMIT:.0f} units" in note for note in notes)
    for file, line in (("losses.py", "-multiplier"), ("optimizers.py", "alpha=-self.learning_rate")):
        assert line in (ROOT / "pgtorch" / file).read_text()  # the minuses of the teacher's third answer
    assert TrainConfig(check_update=1).check_update == 1
    hungry = [2 * q - 1 for q in MODEL.large_portion_probability]
    assert hungry[1] - hungry[0] == pytest.approx(1.3)


def test_nothing_is_loaded():
    assert "http:" not in TEXT
    assert "https:" not in TEXT
    assert not re.search(r"\bsrc=|\burl\(|@import|fetch\(|XMLHttp|import\(", TEXT)
    assert re.findall(r"<link.*>", TEXT) == ['<link rel="icon" href="data:,">']
    assert "default-src 'none'" in TEXT  # the browser refuses the rest


def test_it_stays_readable():
    lines = TEXT.splitlines()
    assert len(lines) <= 1300
    assert len(TEXT.encode()) < 100_000
    assert max(map(len, lines)) <= 140


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
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run")
    for flag in (*flags, "hide-scrollbars"):
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


# `read(root)` gives [name, value, text] of each number shown; `put(id, value)` types into a field; `choose` what if.
TOOLS = """
const read = root => [...document.querySelectorAll(root + ' [data-number]')].filter(e => 'value' in e.dataset)
  .map(e => [e.dataset.number, e.dataset.value, e.textContent, Number(e.dataset.digits ?? 6)]);
const put = (id, value) => {
  const field = document.getElementById(id);
  field.value = String(value);
  field.dispatchEvent(new Event('input', { bubbles: true }));
};
const choose = experiment => {
  const field = document.getElementById('experiments');
  field.value = experiment;
  field.dispatchEvent(new Event('change', { bubbles: true }));
};
"""


def read(page, root):
    """The numbers shown in a part of the page, by name, after a check that their texts say the same."""
    return numbers_of(page.execute_script(TOOLS + "return read(arguments[0])", root))


def numbers_of(shown):
    numbers = {}
    for name, stored, text, digits in shown:
        value = float(stored)
        assert numbers.setdefault(name, value) == value or math.isnan(value), f"{name} is shown with two values"
        if math.isfinite(value):
            step = 0.5 * 10.0**-digits if "e" not in text else 0.006 * abs(value)
            assert abs(value_of(text) - value) <= step * (1 + 1e-9), (name, value, text)
            assert value_of(text) == value or digits < 6 or not re.fullmatch(r"\d", text), (
                f"{name}: {value} is not {text}"
            )
    return numbers


def value_of(text):
    """The number that a text shows: "1,000", "≈ 1", or a sum such as "1 - 1.39e-11"."""
    text = text.replace("\u2212", "-").replace(",", "").removeprefix("\u2248 ")
    first, *rest = text.split(" ")
    return float(first) + (float("".join(rest)) if rest else 0.0)


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
        "distance": abs(s["rate"] * step.manual),
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
    *(
        "dce_dz",
        "dce_db",
        "reward",
        "updated",
        "new_bias",
        "new_p_norm",
        "plus.new_bias",
        "minus.new_bias",
        "mean_step",
        "distance",
    ),
}


LESSON = {
    **{"wrongSign": False, "reward": "one", "hunger": "uniform", "likelier": False},
    **{"weight": 20.0, "learningRate": LEARNING_RATE, "threshold": MODEL.hungry_above},
    **dict(zip(("largeAtSquatch", "largeAtNorm"), MODEL.large_portion_probability, strict=True)),
    "baseline": 0,
}
EXPERIMENTS = {
    "lesson": {},
    "wrong": {"wrongSign": True},
    "none": {"reward": "none"},
    "two": {"reward": "two"},
    "graded": {"reward": "graded"},
    "three": {"reward": "three"},
    "baseline": {"reward": "three", "baseline": 2},
    "likelier": {"likelier": True, "largeAtSquatch": 0.0, "largeAtNorm": 0.3},
    "ends": {"hunger": "ends"},
    "clear": {"largeAtSquatch": 0.0, "largeAtNorm": 1.0},
    "threshold": {"threshold": 0.3},
    "slow": {"learningRate": 0.1},
}


def mixed(x):
    """The page's `mix`."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniforms(seed, learner):
    """The page's `Random`."""
    state = (mixed(seed) + learner) & 0xFFFFFFFF
    state = mixed(state)
    while True:
        state = (state + 0x9E3779B9) & 0xFFFFFFFF
        yield mixed(state) / 2**32


def visits(settings, seed, learner=0):
    """The visits of a learner, each as (hunger, reward, old bias, new bias), by `steps.py`."""
    s, numbers, policy = {**LESSON, **settings}, uniforms(seed, learner), policy_with(20.0, 0.0)
    while True:
        hunger, draw, order = itertools.islice(numbers, 3)
        if s["hunger"] == "ends":
            hunger = 0.0 if hunger < 0.5 else 1.0
        if s["likelier"]:
            (mode,) = policy.mode(torch.tensor([[hunger]], dtype=torch.float64)).tolist()
            draw = float(mode)  # 1 is always Norm, 0 is Squatch
        place = draw_place(policy, hunger=hunger, draw=draw)
        large = serves_large(order, s["largeAtNorm"] if place is Restaurant.NORM else s["largeAtSquatch"])
        reward = reward_of(large, is_hungry(hunger, s["threshold"]), 2.0 if s["reward"] == "two" else 1.0)
        if s["reward"] == "graded":
            reward *= significance(hunger, s["threshold"])
        reward = {"none": 1.0, "three": reward + 2}.get(s["reward"], reward)
        used = reward - s["baseline"]
        # take_step judges by the threshold of Restaurant-v0: hand it the order that brings this multiplier there.
        visit = Visit(hunger, draw, large=bool(is_hungry(hunger, MODEL.hungry_above)) == (used > 0))
        rate = -s["learningRate"] if s["wrongSign"] else s["learningRate"]
        step = take_step(policy, visit, reward_scale=abs(used), learning_rate=rate)
        yield hunger, reward, step.bias, step.new_bias


def model_of(settings):
    s = {**LESSON, **settings}
    scale = 2.0 if s["reward"] == "two" else 1.0
    portions = (s["largeAtSquatch"], s["largeAtNorm"])
    scheme = "graded" if s["reward"] == "graded" else "binary"
    return RestaurantModel(s["weight"], portions, s["threshold"], reward_scheme=scheme, reward_scale=scale)


def mean_reward(settings, bias):
    """J of the lesson with these settings, and of what is added to every reward."""
    hill = mean_reward_at_the_ends if settings.get("hunger") == "ends" else model_of(settings).expected_reward
    return hill(bias) + 2 * (settings.get("reward") == "three")


def mean_reward_at_the_ends(bias):
    """J of the lesson if hunger is only 0 or 1."""
    q_squatch, q_norm = MODEL.large_portion_probability
    total = 0.0
    for hunger, sign in ((0.0, -1), (1.0, 1)):
        p_norm = torch.sigmoid(torch.tensor(20.0 * hunger + bias, dtype=torch.float64)).item()
        total += sign * ((2 * q_squatch - 1) * (1 - p_norm) + (2 * q_norm - 1) * p_norm) / 2
    return total


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme):
    """At least 4.5 to 1 against both backgrounds, as WCAG 2 asks (AA)."""
    block = TEXT.split("prefers-color-scheme: dark")[scheme == "dark"]
    colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    for front, back in itertools.product(("ink", "muted", "squatch", "norm"), ("paper", "card")):
        low, high = sorted((luminance(colors[front]), luminance(colors[back])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


class TestInTheBrowser:
    pytestmark = needs_browser

    def test_numbers_of_1000_settings(self, page):
        generator = random.Random(0)
        settings = [random_setting(generator) for _ in range(1000)]
        script = """
        document.getElementById('all-steps').click();
        return arguments[0].map(({ large, ...fields }) => {
          document.getElementById(large ? 'order-large' : 'order-small').checked = true;
          for (const [id, value] of Object.entries(fields)) document.getElementById(id).value = String(value);
          put('hunger', fields.hunger);  // and the page reads them all
          return ['#visit', '#factors', '#why-reward'].flatMap(read);
        });"""
        for setting, shown in zip(settings, page.execute_script(TOOLS + script, settings), strict=True):
            numbers = numbers_of(shown)
            expected = expected_numbers(setting)
            require_equal(numbers, expected)
            unsaid = {"new_p_norm", "distance"} - set(numbers)  # "P(Norm) hardly changes", "the bias stays"
            assert set(numbers) | unsaid == SHOWN_FOR_A_VISIT
            assert "new_p_norm" not in unsaid or expected["new_p_norm"] == pytest.approx(expected["p_norm"], abs=1e-6)
            assert "distance" not in unsaid or expected["distance"] == 0

    def test_the_worked_updates_and_the_lesson(self, page):
        lesson_settings, presets = page.execute_script("return [LESSON, PRESETS]")
        assert lesson_settings == LESSON
        policy = BiasPolicy().double()
        page.execute_script("document.getElementById('all-steps').click()")
        for index, visit in enumerate(WORKED_EXAMPLE):
            assert Visit(*(presets[index][name] for name in Visit._fields)) == visit
            page.execute_script(f"document.querySelector('[data-preset=\"{index}\"]').click()")
            shown = read(page, "#visit")
            step = take_step(policy, visit)
            assert shown["bias"] == step.bias
            assert shown["new_bias"] == pytest.approx(step.new_bias, rel=1e-15)
        assert shown["new_bias"] == pytest.approx(-1.122459, abs=1e-6)
        assert shown["new_p_norm"] == pytest.approx(0.245555, abs=1e-6)

    @pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
    def test_the_first_question_is_on_the_first_screen(self, chromium, width, height):
        show(chromium, width, height)
        choices = "[...document.querySelectorAll('[data-choice]')]"
        bottoms = chromium.execute_script(f"return {choices}.map(button => button.getBoundingClientRect().bottom)")
        assert len(bottoms) == 4
        assert max(bottoms) < height

    @pytest.mark.parametrize(("preset", "right"), [(0, [2, 0, 2, 1, 0, 0]), (1, [0, 1, 2, 0, 1, 0])])
    def test_each_step_asks_before_it_tells(self, page, preset, right):
        click = "document.querySelector(arguments[0]).click(); return document.getElementById('step-cards').innerText"
        page.execute_script(click, f'[data-preset="{preset}"]')
        place, other = ("Squatch", "Norm") if preset == 0 else ("Norm", "Squatch")
        for index, choice in enumerate(right):
            before = page.execute_script("return document.getElementById('step-cards').innerText")
            assert before.startswith(f"{index + 1}. ")
            assert "Answer:" not in before
            assert read(page, "#step-cards").keys() <= {"draw", "hunger", "weight", "bias"}  # which the question names
            network = page.execute_script("""return document.getElementById('network').textContent +
                [...document.querySelectorAll('#network svg')].map(svg => svg.ariaLabel)""")
            assert "Answer the six steps" in network
            assert not {"new_bias", "reward", "distance"} & read(page, "#network").keys()
            assert ("p_norm" in read(page, "#network")) == (index > 0)
            assert (f"falls on {place}" in network) == (index > 1)
            assert f"falls on {other}" not in network
            hidden = "return getComputedStyle(document.querySelector('#factors [data-number=new_bias]')).visibility"
            assert page.execute_script(hidden) == "hidden"
            assert page.execute_script("return document.getElementById('next').textContent") in ("Skip →", "Next →")
            after = page.execute_script(click, f'[data-choice="{choice}"]')
            assert "Right. Answer:" in after
            assert re.search(r"(pgtorch|envs)/\S+\.py, ", after)
            if index < 5:
                assert page.execute_script("return document.activeElement.textContent") == "Next →"
                page.execute_script(click, "#next")
        assert {"new_bias", "reward", "distance"} <= read(page, "#network").keys()
        assert page.execute_script(hidden) == "visible"
        assert page.execute_script(click, "#stepper li:nth-child(5) button").startswith("5. ")
        page.execute_script(click, "#next")
        page.execute_script(click, "#go-on")
        step = [
            take_step(policy_with(20.0, bias), visit) for bias, visit in zip((0, -0.5), WORKED_EXAMPLE, strict=True)
        ]
        assert read(page, "#network")["bias"] == step[preset].new_bias
        pressed = "return [...document.querySelectorAll('[data-preset]')].map(button => button.ariaPressed)"
        assert page.execute_script(pressed) == [
            "false",
            "true" if preset == 0 else "false",
        ]  # the first leads to the second

    def test_a_wrong_answer_gets_its_reason(self, page):
        click = "document.querySelector(arguments[0]).click(); return document.getElementById('step-cards').innerText"
        for choice, step in zip((0, 1, 0, 0, 1, 1), (1, 2, 3, 4, 5, 6), strict=True):
            page.execute_script(click, f"#stepper li:nth-child({step}) button")
            answer = page.execute_script(click, f'[data-choice="{choice}"]')
            assert re.search(r"Not quite\. Answer: [^\n.]+\. .+\.", answer), answer

    def test_a_random_visit_is_a_visit(self, page):
        seen = set()
        for _ in range(20):
            page.execute_script("document.getElementById('random').click()")
            shown = read(page, "#network")
            assert 0 <= shown["hunger"] <= 1
            assert 0 <= shown["draw"] < 1
            assert shown["bias"] == 0
            seen.add((shown["hunger"], shown["draw"]))
        assert len(seen) > 10

    @pytest.mark.parametrize(
        ("hunger", "bias", "draw"), [(0.5, 0, 0.2), (1, 5, 0.2), (1, 15, 0.2), (1, 90, 0.2), (0, -90, 0.2)]
    )
    def test_rounding_says_nothing_false(self, page, hunger, bias, draw):
        """A change is shown, however small, and a probability that rounds to 0 or 1 is not said to be that."""
        script = "put('hunger', arguments[0]); put('bias', arguments[1]); put('draw', arguments[2]);"
        page.execute_script(TOOLS + script + "document.getElementById('all-steps').click()", hunger, bias, draw)
        expected = abs(take_step(policy_with(20.0, bias), Visit(hunger, draw, large=False)).manual)
        summary = page.execute_script("return document.getElementById('summary').textContent")
        if expected:
            assert read(page, "#network")["distance"] == pytest.approx(expected, rel=1e-12)
            assert value_of(re.search(r"(?:up|down) by (\S+), to", summary)[1]) > 0
        else:
            assert "The bias stays" in summary
        assert not re.search(
            r"P\(\w+\) = [01](?![.\d])(?! [\u2212+] )",
            page.execute_script("return document.getElementById('step-cards').textContent"),
        )
        assert not re.search(r"goes from (\S+) to \1[ .]", summary), summary

    @pytest.mark.parametrize(
        ("experiment", "seed", "count"),
        [("lesson", 1, 200), *((name, 7, 60) for name in EXPERIMENTS if name != "lesson")],
    )
    def test_visits_of_a_seed(self, page, experiment, seed, count):
        script = """
        choose(arguments[0]);
        put('seed', arguments[1]);
        const visit = () => { document.getElementById('one').click(); return read('#many'); };
        return Array.from({ length: arguments[2] }, visit);
        """
        trace = page.execute_script(TOOLS + script, experiment, seed, count)
        expected = visits(EXPERIMENTS[experiment], seed)
        for shown, (hunger, reward, old, new) in zip(trace, expected, strict=False):
            numbers = numbers_of(shown)
            p_norm = [torch.sigmoid(torch.tensor(z, dtype=torch.float64)).item() for z in (new, 20.0 + new)]
            names = ("many.hunger", "many.reward", "many.old_bias", "many.bias", "many.p_norm_0", "many.p_norm_1")
            numbers = {name: numbers[name] for name in (*names, "many.expected_reward")}
            values = (hunger, reward, old, new, *p_norm, mean_reward(EXPERIMENTS[experiment], new))
            require_equal(numbers, dict(zip(numbers, values, strict=True)))

    def test_the_best_bias(self, page):
        generator = random.Random(1)
        settings = [s for name, s in EXPERIMENTS.items() if name != "ends"]
        for reward in ("one", "graded"):
            settings += [
                {"threshold": generator.uniform(0.05, 0.95), "largeAtNorm": 0.9, "reward": reward} for _ in range(9)
            ]
        found = page.execute_script("return arguments[0].map(s => bestBias({ ...LESSON, ...s }))", settings)
        for setting, best in zip(settings, found, strict=True):
            assert best == pytest.approx(model_of(setting).optimal_bias(), rel=1e-12)
        assert page.execute_script("return bestBias({ ...LESSON, hunger: 'ends' })") == pytest.approx(-10, rel=1e-9)
        assert page.execute_script("return format(bestBias({ ...LESSON, largeAtSquatch: 0.8 }))") == "none"

    def test_switches_one_by_one(self, page):
        change = """
        put('threshold', 0.7);
        for (const [id, property, value] of arguments[0]) {
          const field = document.getElementById(id);
          field[property] = value;
          field.dispatchEvent(new Event('change', { bubbles: true }));
        }
        return [many.settings, document.getElementById('experiments').value];"""
        changes = [("switch-reward", "value", "two"), ("switch-wrongSign", "checked", True)]
        settings, experiment = page.execute_script(TOOLS + change, changes)
        assert (settings, experiment) == ({**LESSON, "threshold": 0.7, "reward": "two", "wrongSign": True}, "own")
        assert read(page, "#many")["many.best"] == pytest.approx(model_of(settings).optimal_bias(), rel=1e-12)
        page.execute_script(TOOLS + "choose('ends')")
        expected = {**LESSON, **EXPERIMENTS["ends"]}
        assert page.execute_script("return many.settings") == expected
        assert page.execute_script("return document.getElementById('switch-reward').value") == "one"

    def test_the_band_is_of_100_learners(self, page):
        click = "for (let i = 0; i < 20; i++) document.getElementById('one').click();"
        columns = page.execute_script(click + "return [many.low, many.median, many.high]")
        low, median, high = (column[-1] for column in columns)
        last = sorted(next(itertools.islice(visits({}, 1, learner), 19, None))[-1] for learner in range(100))
        assert [low, median, high] == pytest.approx([last[10], last[50], last[89]], rel=1e-12)

    def test_what_the_teacher_is_told(self, page):
        """Of the lesson with seed 1: where it is after 300 visits, and how wide the band is; and of rewards of +1."""
        last = next(itertools.islice(visits({}, 1), 299, None))[-1]
        assert read(page, "#teach") == {"answer.300": pytest.approx(last, rel=1e-12)}
        play = (
            TOOLS
            + """choose(arguments[0]);
            for (let i = 0; i < 2000; i++) visitOnce();
            return [many.high.map((high, i) => high - many.low[i]), many.learners.filter(l => l.bias > 0).length];"""
        )
        width, _ = page.execute_script(play, "lesson")
        assert max(width[:200]) > 4
        assert width[300] == pytest.approx(2.4, abs=0.1)
        assert statistics.mean(width[300:]) == pytest.approx(2.4, abs=0.1)
        page.execute_script(TOOLS + "put('seed', 3)")
        _, above = page.execute_script(play, "none")
        assert above > 50  # "most up"
        assert page.execute_script("return many.biases.at(-1)") < -10  # "some far down (try seed 3)"

    def test_a_baseline_shrinks_the_spread(self, page):
        """Rewards of +3 and +1 minus 2 are the lesson's, so are the steps; without the baseline they scatter."""
        click = (
            TOOLS
            + """choose(arguments[0]);
            for (let i = 0; i < 300; i++) visitOnce();
            return [many.biases, many.ghosts, many.high.at(-1) - many.low.at(-1)];"""
        )
        own, lesson, spread = page.execute_script(click, "baseline")
        assert own == lesson
        assert page.execute_script(click, "three")[2] > 2 * spread

    def test_play_pause_reset(self, page):
        def count():
            return read(page, "#many")["many.visits"]

        click = "document.getElementById(arguments[0]).click()"
        page.execute_script("document.getElementById('speed').value = '100'")
        page.execute_script(click, "play")
        WebDriverWait(page, 20).until(lambda _: count() > 20)
        page.execute_script(click, "play")
        stopped = count()
        assert stopped < 1000
        page.execute_async_script("setTimeout(arguments[0], 200)")
        assert count() == stopped
        page.execute_script(click, "reset")
        assert count() == 0
        page.execute_script("document.getElementById('speed').value = 'Infinity'")
        page.execute_script(click, "play")
        WebDriverWait(page, 20).until(lambda _: count() == 2000)
        numbers = read(page, "#many")
        assert 120 < numbers["many.arrival"] < 240  # 170 over many seeds
        assert abs(numbers["many.median"] + 10) < 0.5

    def test_answers_with_numbers(self, page):
        sizes = page.execute_script(TOOLS + "return read('#sizes').map(([name, value]) => [name, Number(value)])")
        for size in (1.0, 2.0):
            policy = BiasPolicy().double()
            for visit in WORKED_EXAMPLE:
                step = take_step(policy, visit, reward_scale=size)
                for name, value in (("dce_db", step.dce_db), ("updated", step.manual), ("new_bias", step.new_bias)):
                    assert sizes.pop(0) == [name, pytest.approx(value, rel=1e-12)]
        assert not sizes
        page.execute_script(TOOLS + "put('ten-threshold', 0.3); put('log-p', 0.9)")
        ten, log = read(page, "#why-ten"), read(page, "#why-log")
        uneven = model_of({"threshold": 0.3}).optimal_bias()
        assert ten == {"ten.threshold": 0.3, "ten.weight": 20.0, "ten.bias": -6.0, "ten.uneven": pytest.approx(uneven)}
        assert "\u22125.995" in page.execute_script("return document.getElementById('why-ten').textContent")
        step = [take_step(policy_with(0.0, math.log(9)), Visit(1.0, draw, large=True)) for draw in (0.99, 0.01)]
        often, slope = (0.9, 0.1), (step[0].dp_dz, -step[0].dp_dz)
        assert log["log.sum.with"] == pytest.approx(
            -sum(p * s.dce_db for p, s in zip(often, step, strict=True)), abs=1e-15
        )
        assert log["log.sum.without"] == pytest.approx(sum(p * s for p, s in zip(often, slope, strict=True)), rel=1e-12)

    def test_a_number_out_of_range_is_refused(self, page):
        page.execute_script(TOOLS + "put('hunger', 0.25); put('hunger', 1.5)")
        assert read(page, "#network")["hunger"] == 0.25
        assert page.execute_script("return document.getElementById('hunger').ariaInvalid") == "true"
        assert "from 0 to 1" in page.execute_script("return document.getElementById('range-note').textContent")
        page.execute_script(TOOLS + "put('hunger', 0.75)")
        assert read(page, "#network")["hunger"] == 0.75
        assert page.execute_script("return document.getElementById('range-note').textContent") == ""

    def test_a_slider_moves_the_numbers_within_50_ms(self, page):
        script = """
        const [done] = arguments, slider = document.getElementById('hunger-slider'), times = [];
        const move = value => {
          const from = performance.now();
          slider.value = String(value);
          slider.dispatchEvent(new Event('input', { bubbles: true }));
          requestAnimationFrame(() => setTimeout(() => {  // after the frame that shows them
            times.push(performance.now() - from);
            if (value < 0.4) move(value + 0.02);
            else done([times, document.querySelector('[data-number=hunger]').dataset.value]);
          }));
        };
        move(0);"""
        times, shown = page.execute_async_script(script)
        assert float(shown) == pytest.approx(0.4)
        assert statistics.median(times) < 50

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844), (320, 640)])
    def test_nothing_overflows(self, chromium, width, height, scheme):
        show(chromium, width, height, prefers_color_scheme=scheme)
        script = "document.getElementById('all-steps').click(); document.getElementById('switches').open = true;"
        chromium.execute_script(script)
        assert chromium.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
        background = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(250, 249, 246)") == (scheme == "light")
        assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0

    def test_keyboard(self, page):
        def press(key):
            ActionChains(page).send_keys(key).perform()
            return page.execute_script("""const e = document.activeElement;
                return [e.id || e.dataset.preset || e.hash || e.textContent, getComputedStyle(e).outlineStyle]""")

        reached = [press(Keys.TAB) for _ in range(12)]
        assert [name for name, _ in reached] == [
            *("#steps", "#steps", "#factors", "#many", "#why", "#teach", "#many", "#why"),
            *("1", "2", "3", "4"),
        ]
        assert {outline for _, outline in reached} == {"solid"}
        page.execute_script("document.getElementById('hunger').focus()")
        assert press(Keys.TAB) == ["bias-slider", "solid"]
        before = read(page, "#network")["bias"]
        press(Keys.ARROW_RIGHT)
        assert read(page, "#network")["bias"] == pytest.approx(before + 0.1)
        every = page.execute_script("""
            const tab = [...document.querySelectorAll('a, button, input, select, summary')];
            return tab.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)""")
        assert every == []

    def test_a_screen_reader_is_told(self, page):
        page.execute_script(TOOLS + "put('hunger', 0.25)")
        told = "return document.getElementById('announcement').textContent"
        WebDriverWait(page, 20).until(lambda _: "P(Norm) = 0.993" in page.execute_script(told))
        page.execute_script(TOOLS + "document.getElementById('all-steps').click(); put('hunger', 0.2)")
        WebDriverWait(page, 20).until(lambda _: "The bias moves" in page.execute_script(told))
        assert (
            page.execute_script("""return [...document.querySelectorAll('svg')].filter(e => !e.ariaLabel).length""")
            == 0
        )

    def test_reduced_motion(self, chromium):
        show(chromium, prefers_reduced_motion="reduce")
        assert chromium.execute_script("return document.getElementById('speed').value") == "Infinity"
        assert chromium.execute_script("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"

    def test_the_picture_in_the_readme_is_the_page(self, page, tmp_path):
        """If it fails after a change to the page: copy the new picture, whose path it prints."""
        page.execute_script("document.querySelector('[data-choice=\"2\"]').click()")  # the first question is answered
        page.execute_script("document.activeElement.blur()")
        fresh = tmp_path / "page.png"
        picture = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
        picture.quantize(64, dither=Image.Dither.NONE).save(fresh, optimize=True)
        new, old = (
            np.asarray(Image.open(path).convert("RGB"), float) / 255 for path in (fresh, ROOT / "docs" / "page.png")
        )
        assert new.shape == old.shape == (720, 1280, 3)
        assert np.abs(new - old).mean() < 0.01, f"cp {fresh} docs/page.png"  # but for fonts
