"""The lesson told in the terminal, in five acts. Every number is computed as it is printed, by the code of the core.

Each act takes `wait`, called after each question that it asks and before the answer.
"""

from __future__ import annotations

import os
import statistics
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace

import torch
from torch import Tensor

from pgtorch.config import TrainConfig
from pgtorch.lesson.model import RestaurantModel
from pgtorch.lesson.steps import LEARNING_RATE, MODEL, WORKED_EXAMPLE, Step, Visit, differentiate, take_step, walk
from pgtorch.optimizers import SGD
from pgtorch.policies import BiasPolicy
from pgtorch.trainer import Trainer
from restaurant_env import Restaurant
from restaurant_env.rendering import PLACES
from restaurant_env.restaurant import significance

CELLS = 66  # of the line from 0 to 1
BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"
OWN_VISIT = Visit(hunger=0.1, draw=0.5, large=True)  # what act 4 shows without flags
WIDE, HIGH = 27, 9  # columns and rows of a sketch


def go_on() -> None:
    """Do not wait for the reader."""


def act_1(wait: Callable[[], None] = go_on) -> None:
    """Backpropagation with known answers, and why we have none."""
    policy = BiasPolicy().double()
    weight = _number(policy.weight.item())
    _title("Act 1: if we knew the right answers")
    _say(
        f"Where do we go for fries, to {PLACES[0]} or to {PLACES[1]}? That depends on how hungry we are, from 0 (not "
        "at all) to 1 (very). A small network takes the hunger and gives the probability of each place. The sigmoid "
        "squeezes any number z into the range from 0 to 1:"
    )
    print(f"    z = {weight} x hunger + b     P(Norm) = sigmoid(z)     P(Squatch) = 1 - P(Norm)\n")
    _say(f"The weight stays at {weight}. Only the bias b is learned; it starts at {_number(policy.bias.item())}:")
    _sketch(policy.bias.item())
    _ask("What would the curve look like with b = -5? (Slide it along: P(Norm) is 0.5 where z is 0.)", wait)
    _sketch(-5.0)
    _say(
        "The bias moves the curve sideways, and with it the hunger at which Norm becomes the likelier place. Suppose "
        "someone gave us the right answer for four hungers: 0 for Squatch, 1 for Norm. Then plain backpropagation "
        "would do. Cross-entropy (CE) measures how far P(Norm) is from the right answer, and its derivative with "
        "respect to b says which way to move b:"
    )
    hunger = torch.tensor([[0.0], [1.0], [0.1], [0.9]], dtype=torch.float64)
    answer = torch.tensor([0, 1, 0, 1])
    ones = torch.ones(4, dtype=torch.float64)  # without rewards the loss is the cross-entropy
    _ask(f"With b = {_number(policy.bias.item())}, for which of them is the network already right?", wait)
    print("    hunger   right answer   P(Norm)       CE         dCE/db = P(Norm) - answer")
    for row in range(4):
        h, a = hunger[row : row + 1], answer[row : row + 1]
        p_norm, ce = torch.sigmoid(policy(h)).item(), -policy.log_prob(h, a).item()
        derivative, _ = differentiate(policy, h, a, ones[:1])
        numbers = f"{_number(p_norm):13} {_number(ce):10} {_number(derivative)}"
        print(f"    {_number(h.item()):8} {a.item():<14} {numbers}")
    print()
    _say(
        "For the high hungers the network is already right (e-09 means billionths). For the low ones it is not: a "
        "positive derivative says that CE grows with b, so b must come down. Gradient descent takes the mean of the "
        f"four derivatives, multiplies it by a learning rate, {LEARNING_RATE}, and subtracts it from b, again and "
        "again:"
    )
    _ask("So which way does b go, and does it ever arrive?", wait)
    print("    steps       b   P(Norm) at hunger " + "   ".join(_number(h) for h in hunger.flatten().tolist()))
    optimizer = SGD([policy.bias], LEARNING_RATE)
    for update in range(1, 501):
        differentiate(policy, hunger, answer, ones)
        optimizer.step()
        if update in (1, 10, 100, 500):
            p_norms = "  ".join(f"{p:.2f}" for p in torch.sigmoid(policy(hunger)).tolist())
            print(f"    {update:5}  {policy.bias.item():6.2f}                     {p_norms}")
    squatch, norm = MODEL.large_portion_probability
    print()
    _say(
        "So four right answers would be enough. But we do not have them. When we are hungry we want a large order, and "
        "when we are not, a small one; but nobody knows how large an order is until it is on the table. Squatch serves "
        f"a large one with probability {squatch:.2f}, Norm with {norm:.2f}, and these numbers are hidden from us. "
        "Without a right answer there is nothing to subtract from P(Norm).",
        "The way out: guess an answer, go there, and let the outcome say how good the guess was. That is the idea of "
        "policy gradients. (A policy is a network that chooses what to do.)",
    )


def act_2(wait: Callable[[], None] = go_on) -> None:
    """The worked example, visit by visit."""
    _title("Act 2: two visits, number by number")
    policy = BiasPolicy().double()
    for count, visit in enumerate(WORKED_EXAMPLE, start=1):
        step = take_step(policy, visit)
        print(_paint(f"Visit {count}: hunger {_number(visit.hunger)}, bias {_number(step.bias)}\n", BOLD))
        _show(visit, step, explain=count == 1, wait=wait, ask=True)
    print(f"After both visits P(Norm) at hunger {_number(visit.hunger)} is {_number(step.new_p_norm)}.\n")
    _say(
        "When we are not hungry, Norm has become less likely, as it should. We did not need a right answer for that. "
        "Both visits moved the bias in the same direction, although the guesses were opposite: one was rewarded, the "
        "other was not."
    )


def act_3(wait: Callable[[], None] = go_on) -> None:
    """Rewards of another size."""
    scale = float(significance(WORKED_EXAMPLE[0].hunger, MODEL.hungry_above))
    _title(f"Act 3: {scale:+g} and {-scale:+g}")
    _say(
        "Rewards need not be +1 and -1. When more is at stake they can be larger. Here are the same two visits with "
        "rewards of both sizes. The derivative comes from the guess alone. The reward multiplies it, so the reward "
        "sets not only the direction of the step but also its length:"
    )
    _ask(f"With rewards {scale:g} times as large, is every number {scale:g} times as large?", wait)
    print("    rewards   visit   P(Norm)    dCE/db      x reward   = updated     new bias")
    for size in (1.0, scale):
        policy = BiasPolicy().double()
        for count, visit in enumerate(WORKED_EXAMPLE, start=1):
            step = take_step(policy, visit, reward_scale=size)
            product = f"{_number(step.dce_db):11} x {step.reward:<+8g} = {_number(step.manual):11}"
            print(f"    {_rewards(size):9} {count:<7} {_number(step.p_norm):10} {product} {_number(step.new_bias)}")
    print()
    _say(
        f"With rewards {scale:g} times as large, the first step is {scale:g} times as long. The second visit then "
        "starts from a different bias, so its derivative is different too. To train with larger rewards when hunger is "
        "far from the middle:"
    )
    print('    pgtorch train --env-kwargs \'{"reward_scheme": "graded"}\'\n')


def act_4(
    visit: Visit = OWN_VISIT,
    *,
    bias: float = 0.0,
    reward_scale: float = 1.0,
    learning_rate: float = LEARNING_RATE,
    wrong_sign: bool = False,
    wait: Callable[[], None] = go_on,
) -> None:
    """A visit of the user's choice, luck, and what a wrong sign does."""
    _title("Act 4: a visit of your own")
    rate = -learning_rate if wrong_sign else learning_rate
    step = take_step(BiasPolicy(bias=bias).double(), visit, reward_scale=reward_scale, learning_rate=rate)
    chosen = f"hunger {_number(visit.hunger)}, draw {_number(visit.draw)}, a {_order(visit)} order"
    print(_paint(f"{chosen}, rewards {_rewards(reward_scale)}\n", BOLD))
    _show(visit, step, rate, wait=wait)
    likelier = (step.new_bias > step.bias) == (step.place is Restaurant.NORM)
    earned = f"{'rewarded' if step.reward > 0 else 'a bad guess'} and is now {'more' if likelier else 'less'} likely"
    _say(
        f"P(Norm) at this hunger goes from {_number(step.p_norm)} to {_number(step.new_p_norm)}. {_name(step.place)} "
        f"was {earned}: {'as it should be.' if likelier == (step.reward > 0) else 'the wrong way around!'}"
    )
    if not wrong_sign:
        _tell_luck(step, learning_rate)
    else:
        _ask("And if every step went the wrong way?", wait)
        _run_away(bias, reward_scale, learning_rate)
    _say("Now try numbers of your own, and step the wrong way to see why the sign matters:")
    print("    pgtorch lesson --act 4 --hunger 0.2 --draw 0.01 --portion small")
    print("    pgtorch lesson --act 4 --bias -9 --hunger 0.6 --learning-rate 0.1")
    print("    pgtorch lesson --act 4 --reward-scale 2 --wrong-sign\n")


def _tell_luck(step: Step, learning_rate: float) -> None:
    """Say so if the order misled: the worse place was rewarded, or the better one punished."""
    q_squatch, q_norm = MODEL.large_portion_probability
    better = Restaurant.NORM if step.hungry else Restaurant.SQUATCH
    if (step.place is better) == (step.reward > 0):
        return
    size, suits = ("large", (q_squatch, q_norm)) if step.hungry else ("small", (1 - q_squatch, 1 - q_norm))
    # The mean over places a of -dCE/db x reward is the sum of dP(a)/db x mean reward, and dP(Norm)/db = P(1-P).
    mean = learning_rate * 2 * abs(step.reward) * (suits[1] - suits[0]) * step.p_norm * step.p_squatch
    _say(
        f"But that was {'luck' if step.reward > 0 else 'bad luck'}: {'hungry' if step.hungry else 'not hungry'}, we "
        f"want a {size} order, and {_name(better)} is the better place. Squatch serves a {size} one with probability "
        f"{suits[0]:.2f}, Norm with {suits[1]:.2f}. One order can make the worse place likelier. Over many visits luck "
        f"averages out: at this hunger, with this bias, the mean step of b over all draws and orders is "
        f"{_number(mean)}, toward {_name(better)}."
    )


def _run_away(bias: float, reward_scale: float, learning_rate: float) -> None:
    """Many visits, with the right and with the wrong sign."""
    _say("A thousand visits, with the same random numbers for both signs:")
    columns = [walk(1000, bias=bias, reward_scale=reward_scale, learning_rate=sign * learning_rate) for sign in (1, -1)]
    print(f"    {'':24}  right sign  wrong sign")
    for visits in (1, 100, 300, 1000):
        print(f"    bias after visit {visits:<7}", *(f"{biases[visits - 1]:z11.2f}" for biases in columns))
    policies = [BiasPolicy(bias=biases[-1]) for biases in columns]
    for hunger in (0.0, 1.0):
        p_norms = [torch.sigmoid(policy(torch.tensor([hunger]))).item() for policy in policies]
        print(f"    P(Norm | hunger {hunger})    ", *(f"{p_norm:11.2f}" for p_norm in p_norms))
    expected_reward = RestaurantModel(reward_scale=reward_scale).expected_reward
    right, wrong = (f"{expected_reward(biases[-1]):z.2f}" for biases in columns)
    print()
    _say(
        f"The best bias is {MODEL.optimal_bias():.2f}. With the right sign, a rewarded guess becomes more likely. With "
        "the wrong sign, a bad guess does, and the bias runs away from its optimum. After these visits the "
        f"policy can expect a mean reward of {right} with the right sign, and of {wrong} with the wrong one."
    )


def act_5(wait: Callable[[], None] = go_on) -> None:
    """Training, visit after visit."""
    config = TrainConfig()
    _title(f"Act 5: {config.num_updates:,} visits")
    _say(
        "Two visits are not enough. So the trainer continues, one step per visit, each with a new hunger, a new random "
        "number and a new order."
    )
    _ask(f"Where will the bias be after {config.num_updates:,} visits, and will it come to rest there?", wait)
    _say(f"The dotted line is the best bias, known exactly here: {MODEL.optimal_bias():.2f}.")
    biases = [BiasPolicy().bias.item()]
    with closing(Trainer(config)) as trainer:
        logged = [trainer.update() for _ in range(config.num_updates)]
    biases += [figures["policy/bias"] for figures in logged]
    low, cells = -14, 56  # the chart goes from here to 0, four columns for each unit of bias
    print(f"    visits    bias   {low:<{cells}} 0")
    for visits in range(0, len(biases), 100):
        row = [" "] * (cells + 1)
        row[round(4 * (MODEL.optimal_bias() - low))] = ":"
        row[min(max(round(4 * (biases[visits] - low)), 0), cells)] = _paint("*", YELLOW)
        print(f"    {visits:6,}  {biases[visits]:6.2f}   |{''.join(row)}|")
    late, last = biases[-1000:], logged[-1]
    difference = max(figures["gradient/absolute_difference"] for figures in logged)
    print(f"\n    mean of the bias, last 1,000 visits    {statistics.fmean(late):8.3f}")
    print(f"    its standard deviation                 {statistics.stdev(late):8.3f}")
    print(f"    P(Norm | hunger 0.0)                   {last['policy/p_norm/hunger_0.0']:8.2f}")
    print(f"    P(Norm | hunger 1.0)                   {last['policy/p_norm/hunger_1.0']:8.2f}")
    print(f"    autograd - by hand, largest difference {_number(difference):>8}\n")
    _say(
        "Not hungry: Squatch. Hungry: Norm. And nobody ever gave us a right answer. The bias never comes to rest; it "
        "hovers: each visit moves it, and even the better place sometimes disappoints "
        f"({1 - MODEL.large_portion_probability[1]:.0%} of Norm's orders are small)."
    )
    best, weight, above = MODEL.optimal_bias(), MODEL.weight, MODEL.hungry_above
    _ask(f"Why {best:.0f}, of all numbers?", wait)
    _sketch(best)
    _say(
        f"Why {best:.0f}? P(Norm) is one half where z = {weight:g} h + b is 0, which is at h = -b/{weight:g}: there "
        f"the network changes its mind. We are hungry above {above:g}, so it should change its mind at h = {above:g}, "
        f"and that makes b = -{weight:g} x {above:g} = {best:.0f}. The weight only says how sharply it does."
    )
    _say("To train it yourself and look at it in TensorBoard (in a browser):")
    print("    pgtorch train\n    tensorboard --logdir runs")


# The pieces they print


REASONS = (
    "What does it make of this hunger, with the bias as it is?",
    "A random number between 0 and 1 picks a place: each place gets a stretch as long as its probability. So the "
    "likelier place comes up more often, but the other one gets its chance too.",
    "Is it? We do not know yet. But if we act as if it were, we have a right answer, and with it a cross-entropy. It "
    "would be 0 if this place had probability 1.",
    "How does CE change with the bias? The bias changes z, z changes P (short for P(Norm)), and P changes CE. That "
    "makes three factors, and their product is the derivative.",
    "Only now do we learn whether the guess was good. A positive reward keeps the direction of the derivative. A "
    "negative one turns it around: away from this place, toward the other. PyTorch's autograd finds the same.",
    "A step against the derivative makes CE smaller. So a good guess becomes more likely, and a bad one, with its "
    "derivative turned around, less likely. The learning rate sets how far to go.",
)


QUESTIONS = (
    "The sigmoid is 0.5 at z = 0. Is P(Norm) below one half here, one half, or above?",
    "Here is a random number: {draw}. Which place does it pick?",
    "If {place} were the right answer, what should P({place}) be?",
    "To make {place} likelier, must b go up or down?",
    "{hunger}, and a {order} order. Was it a good guess? What becomes of the derivative?",
    "Which way does the bias go now, and is {place} likelier after that?",
)


def _show(
    visit: Visit,
    step: Step,
    rate: float = LEARNING_RATE,
    *,
    explain: bool = False,
    ask: bool = False,
    wait: Callable[[], None] = go_on,
) -> None:
    """An update, from the hunger to the new bias; with `explain` the reason for each part, with `ask` questions."""
    t = SimpleNamespace(**{key: _number(value) for key, value in step._asdict().items()})
    place, weight = _name(step.place), _number(BiasPolicy().weight.item())
    plus_bias = f"{'-' if step.bias < 0 else '+'} {_number(abs(step.bias))}"
    slope = f"{'-1/P' if step.place is Restaurant.NORM else '1/(1-P)':7}"
    names, sections, mark = _line(visit, step)
    hunger = "hungry" if step.hungry else "not hungry"
    guess, color = ("good", GREEN) if step.reward > 0 else ("bad", RED)
    reward = _paint(f"{step.reward:+g}, a {guess} guess", color)
    sign, wrong = ("-", "") if rate > 0 else ("+", _paint(" with the WRONG SIGN: + where - belongs", RED))
    parts = (
        f"""\
  1. Ask the network
{{}}\
       z = {weight} x {_number(visit.hunger)} {plus_bias} = {t.z}
       P(Norm) = sigmoid(z) = {t.p_norm}
       P(Squatch) = 1 - P(Norm) = {t.p_squatch}
""",
        f"""\
  2. Draw a place
{{}}\
       {names}
       {sections}
       {mark}
""",
        f"""\
  3. Guess that {place} is right
{{}}\
       CE = -log P({place}) = {t.ce}
""",
        f"""\
  4. Differentiate CE with respect to the bias, by the chain rule
{{}}\
       dCE/dP = {slope} = {t.dce_dp}
       dP/dz  = P(1-P)  = {t.dp_dz}
       dz/db  = 1       = {t.dz_db}
       dCE/db = {t.dce_dp} x {t.dp_dz} x {t.dz_db} = {t.dce_db}
""",
        f"""\
  5. Go there, and let the reward correct the derivative
{{}}\
       {hunger}, and a {_order(visit)} order: reward {reward}
       updated derivative = {t.dce_db} x {step.reward:+g} = {t.manual}
       autograd finds       {t.autograd}   (difference {_number(abs(step.autograd - step.manual))})
""",
        f"""\
  6. Step{wrong}
{{}}\
       new bias = bias {sign} learning rate x updated derivative
                = {t.bias} {sign} {_number(abs(rate))} x {t.manual} = {t.new_bias}
""",
    )
    words = {"draw": _number(visit.draw), "place": place, "hunger": hunger.capitalize(), "order": _order(visit)}
    for part, question, reason in zip(parts, QUESTIONS, REASONS, strict=True):
        if ask:
            _ask(question.format(**words), wait)
        elif part is not parts[0]:
            wait()
        print(part.format(_fill(reason, "     ") + "\n" if explain else ""))


def _line(visit: Visit, step: Step) -> tuple[str, str, str]:
    """The line from 0 to 1: the places' names, their stretches, and where the random number falls."""
    encoding, signs = sys.stdout.encoding, "═┼─▲"
    if signs.encode(encoding, "ignore").decode(encoding) != signs:
        signs = "=|-^"
    mark = int(visit.draw * CELLS)
    split = round(step.p_squatch * CELLS)
    split = min(split, mark) if step.place is Restaurant.NORM else max(split, mark + 1)  # however short the stretch
    left, right = f"Squatch: 0 to {_number(step.p_squatch)}", f"Norm: {_number(step.p_squatch)} to 1"
    room = min(max(split, len(left)), CELLS - len(right))
    names = f"  {_paint(f'{left:^{room}}', GREEN)} {_paint(f'{right:^{CELLS - room}}'.rstrip(), RED)}"
    sections = f"0 {_paint(signs[0] * split, GREEN)}{signs[1]}{_paint(signs[2] * (CELLS - split), RED)} 1"
    column = 2 + mark + (mark >= split)
    text = f"random number {_number(visit.draw)}: {_name(step.place)}"
    if mark < CELLS / 2:
        return names, sections, " " * column + _paint(signs[3], YELLOW) + " " + text
    return names, sections, f"{text:>{column - 1}} {_paint(signs[3], YELLOW)}"


def _number(value: float) -> str:
    """A number to six decimals without trailing zeros; with more digits if it would be rounded to 0 or 1."""
    if value and not 1e-4 <= abs(value) < 1e6:  # noqa: PLR2004
        return f"{value:.3g}"
    text = f"{value:z.{9 if 0.999999 < abs(value) < 1 else 6}f}".rstrip("0")  # noqa: PLR2004
    return text + "0" if text.endswith(".") else text


def _name(place: Restaurant) -> str:
    """Squatch or Norm."""
    return place.name.title()


def _order(visit: Visit) -> str:
    return "large" if visit.large else "small"


def _rewards(size: float) -> str:
    """Both rewards of a size."""
    return f"{size:+g}/{-size:+g}"


def _title(text: str) -> None:
    """The heading of an act."""
    print(_paint(f"\n{text}\n{'=' * len(text)}\n", BOLD))


def _ask(question: str, wait: Callable[[], None]) -> None:
    """A question, and time to think about it."""
    print(_paint(_fill(f"? {question}", "  "), YELLOW), end="\n\n")
    wait()


def _sketch(bias: float) -> None:
    """The line z and its sigmoid P(Norm) against hunger."""
    hunger = torch.linspace(0, 1, WIDE, dtype=torch.float64)[:, None]
    z = BiasPolicy(bias=bias).double()(hunger).detach()
    low, high = min(z.min().item(), 0.0), max(z.max().item(), 0.0)
    lines, curves = _plot((z - low) / (high - low)), _plot(torch.sigmoid(z))
    marks = {0: (f"{high:g}", "1"), HIGH // 2: ("", "0.5"), HIGH - 1: (f"{low:g}", "0")}
    name = f"b = {bias:g}"
    print(f"         z, with {name:<{WIDE - 5}}P(Norm), with {name}")
    for row, (line, curve) in enumerate(zip(lines, curves, strict=True)):
        left, right = marks.get(row, ("", ""))
        print(f"    {left:>3} |{line}|   {right:>3} |{curve}|")
    below = f"{'hunger 0':<{WIDE - 1}}1"
    print(f"         {below}         {below}\n")


def _plot(heights: Tensor) -> list[str]:
    """Rows of a text plot, the highest first; heights in [0, 1], one for each column."""
    rows = [round((HIGH - 1) * (1 - height)) for height in heights.tolist()]
    return ["".join("*" if at == row else " " for at in rows) for row in range(HIGH)]


def _say(*paragraphs: str) -> None:
    """Paragraphs, each followed by an empty line."""
    for paragraph in paragraphs:
        print(_fill(paragraph), end="\n\n")


def _fill(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 78 columns."""
    return textwrap.fill(text, 78, initial_indent=indent, subsequent_indent=indent)


def _paint(text: str, color: str) -> str:
    """The text in a color, if it goes to a terminal that wants colors."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\033[{color}m{text}\033[0m" if wanted else text
