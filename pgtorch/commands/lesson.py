"""Tell the lesson in the terminal, in five acts. Every number is computed on the spot, by the code of this project."""

from __future__ import annotations

import gc

gc.disable()  # what imports make, stays: looking for garbage among it takes a fifth of the start-up

import math
import os
import random
import statistics
import sys
import textwrap
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal, NamedTuple

import torch
from pgtorch.commands.command_line import FAILED, complain, parse
from torch import Tensor

from pgtorch import BiasPolicy, GradientMismatchError, TrainConfig, Trainer, manual_gradient, policy_gradient_loss
from pgtorch.lesson.model import RestaurantModel
from pgtorch.gradient_check import check_gradient
from pgtorch.optimizers import SGD
from restaurant_env import Restaurant
from restaurant_env.rendering import PLACES
from restaurant_env.restaurant import is_hungry, reward_of, serves_large, significance

gc.freeze()
gc.enable()

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
CELLS = 66  # of the line from 0 to 1
BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"
LEARNING_RATE = TrainConfig().learning_rate
MODEL = RestaurantModel()  # knows the restaurants' settings as well


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    act: int | None = None
    """Show one act only, 1 to 5."""

    hunger: float = 0.1
    """Act 4: how hungry you are, from 0 (not at all) to 1 (very)."""

    draw: float = 0.5
    """Act 4: the random number that picks the place, from 0 up to but not including 1."""

    portion: Literal["large", "small"] = "large"
    """Act 4: the order that you get there."""

    reward_scale: float = 1.0
    """Act 4: rewards are plus or minus this; above 0, at most 1e6."""

    wrong_sign: bool = False
    """Act 4: step the wrong way, to see it go wrong."""

    pause: bool = True
    """Wait for Enter between two acts; only in a terminal."""

    def __post_init__(self) -> None:
        """Check the ranges. Each condition refuses NaN as well."""
        if self.act is not None and self.act not in range(1, 6):
            raise ValueError(f"act must be in [1, 5], got {self.act}")
        if not 0 <= self.hunger <= 1:
            raise ValueError(f"hunger must be in [0, 1], got {self.hunger}")
        if not 0 <= self.draw < 1:
            raise ValueError(f"draw must be in [0, 1), got {self.draw}")
        if not 0 < self.reward_scale <= 1e6:  # noqa: PLR2004
            raise ValueError(f"reward_scale must be in (0, 1e6], got {self.reward_scale}")


def main() -> int:
    """Parse, tell, and wait between the acts."""
    arguments = parse(Arguments, __doc__)
    torch.set_num_threads(1)
    acts = [act_1, act_2, act_3, lambda: act_4(arguments), act_5]
    if arguments.act is not None:
        acts = [acts[arguments.act - 1]]
    try:
        for index, act in enumerate(acts):
            if index and arguments.pause and sys.stdin.isatty() and sys.stdout.isatty():
                input("Press Enter for the next act. ")
            act()
        sys.stdout.flush()
    except EOFError:
        print()
    except KeyboardInterrupt:
        print()
        return INTERRUPTED
    except BrokenPipeError:  # whoever read this has seen enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except GradientMismatchError as error:
        return complain(str(error), FAILED)
    return 0


# One update, by the library


class Visit(NamedTuple):
    """What is given in a visit; the rest follows from the policy."""

    hunger: float
    draw: float
    large: bool


WORKED_EXAMPLE = (Visit(hunger=0.0, draw=0.2, large=False), Visit(hunger=0.0, draw=0.9, large=True))


class Step(NamedTuple):
    """All there is to know of an update, derivatives as in `manual_gradient`. P is P(Norm), CE the cross-entropy."""

    hunger: float
    draw: float
    large: bool
    hungry: bool
    place: Restaurant
    bias: float
    z: float
    p_norm: float
    p_squatch: float
    ce: float
    dce_dp: float
    dp_dz: float
    dz_db: float
    dce_db: float
    reward: float
    autograd: float
    manual: float
    new_bias: float
    new_p_norm: float


def take_step(policy: BiasPolicy, visit: Visit, scale: float = 1.0, learning_rate: float = LEARNING_RATE) -> Step:
    """Update the policy's bias by one visit.

    Raises:
        GradientMismatchError: Where the three factors, `manual_gradient` and autograd do not agree.
    """
    hungry = is_hungry(visit.hunger, MODEL.hungry_above)
    observation = torch.tensor([[visit.hunger]], dtype=torch.float64)
    bias, z = policy.bias.item(), policy(observation).detach()
    place, p_norm, p_squatch = choose(policy, visit.hunger, visit.draw)
    action = torch.tensor([int(place)])
    ce = -policy.log_prob(observation, action).item()

    dce_dp = -1 / p_norm if place is Restaurant.NORM else 1 / p_squatch
    dp_dz = p_norm * p_squatch
    dz_db = 1.0
    dce_db = manual_gradient(policy, observation, action, torch.ones_like(z))["bias"].item()
    if not math.isclose(dce_dp * dp_dz * dz_db, dce_db, rel_tol=1e-6, abs_tol=1e-15):
        raise GradientMismatchError(f"{visit}: {dce_dp} x {dp_dz} x {dz_db} is not the manual gradient {dce_db}")

    reward = reward_of(visit.large, hungry, scale)
    autograd, manual = derive(policy, observation, action, torch.full_like(z, reward))
    SGD([policy.bias], learning_rate).step()
    guess = bias, z.item(), p_norm, p_squatch, ce, dce_dp, dp_dz, dz_db, dce_db
    outcome = reward, autograd, manual, policy.bias.item(), torch.sigmoid(policy(observation)).item()
    return Step(*visit, hungry, place, *guess, *outcome)


def choose(policy: BiasPolicy, hunger: float, draw: float) -> tuple[Restaurant, float, float]:
    """The place that a draw picks, as `BiasPolicy.sample` does with a draw of its own; P(Norm) and P(Squatch)."""
    z = policy(torch.tensor([hunger], dtype=torch.float64)).detach()
    p_norm, p_squatch = torch.sigmoid(z).item(), torch.sigmoid(-z).item()
    return Restaurant(draw >= p_squatch), p_norm, p_squatch


def derive(policy: BiasPolicy, observation: Tensor, action: Tensor, multiplier: Tensor) -> tuple[float, float]:
    """The loss's derivative in the bias: by autograd, which leaves it in `.grad` for the step, and by hand."""
    policy.bias.grad = None
    policy_gradient_loss(policy.log_prob(observation, action), multiplier).backward()  # type: ignore[no-untyped-call]
    found = check_gradient(policy, observation, action, multiplier, step=0)
    return found["gradient/autograd"], found["gradient/manual"]


# The acts


def act_1() -> None:
    """Backpropagation with known targets, and why there are none."""
    policy = BiasPolicy().double()
    weight = number(policy.weight.item())
    title("Act 1: if the right answers were known")
    say(
        f"Where do we go for fries, to {PLACES[0]} or to {PLACES[1]}? That depends on how hungry we are, from 0 (not "
        "at all) to 1 (very). A small network takes the hunger and gives the probability of each place. The sigmoid "
        "squeezes any number z into the range from 0 to 1:"
    )
    print(f"    z = {weight} x hunger + b     P(Norm) = sigmoid(z)     P(Squatch) = 1 - P(Norm)\n")
    say(
        f"The weight stays at {weight}. Only the bias b is learned; it starts at {number(policy.bias.item())}. Suppose "
        "that somebody told us the right answer for four hungers: 0 for Squatch, 1 for Norm. Then plain "
        "backpropagation would do. Cross-entropy (CE) measures how far P(Norm) is from the right answer, and its "
        "derivative with respect to b tells which way to move b:"
    )
    hunger = torch.tensor([[0.0], [1.0], [0.1], [0.9]], dtype=torch.float64)
    answer = torch.tensor([0, 1, 0, 1])
    ones = torch.ones(4, dtype=torch.float64)  # without rewards the loss is the cross-entropy
    print("    hunger   right answer   P(Norm)       CE         dCE/db = P(Norm) - answer")
    for row in range(4):
        h, a = hunger[row : row + 1], answer[row : row + 1]
        p_norm, cross_entropy = torch.sigmoid(policy(h)).item(), -policy.log_prob(h, a).item()
        numbers = f"{number(p_norm):13} {number(cross_entropy):10} {number(derive(policy, h, a, ones[:1])[0])}"
        print(f"    {number(h.item()):8} {a.item():<14} {numbers}")
    print()
    say(
        "For the high hungers the network is right already (e-09 means: nine places behind the decimal point). For the "
        "low ones it is not: a positive derivative says that CE grows with b, so b must come down. Gradient descent "
        f"takes the mean of the four derivatives times a learning rate, {LEARNING_RATE}, off b, again and again:"
    )
    print("    steps       b   P(Norm) at hunger " + "   ".join(number(h) for h in hunger.flatten().tolist()))
    optimizer = SGD([policy.bias], LEARNING_RATE)
    for update in range(1, 501):
        derive(policy, hunger, answer, ones)
        optimizer.step()
        if update in (1, 10, 100, 500):
            p_norms = "  ".join(f"{p:.2f}" for p in torch.sigmoid(policy(hunger)).tolist())
            print(f"    {update:5}  {policy.bias.item():6.2f}                     {p_norms}")
    squatch, norm = MODEL.large_portion_probability
    print()
    say(
        "So four right answers would be enough. But we do not have them. Hungry, we want a large order; not hungry, a "
        "small one; and nobody knows how large an order will be before it is on the table. Squatch serves a large one "
        f"with probability {squatch:.2f}, Norm with {norm:.2f}, and these numbers are hidden from us. Without a right "
        "answer there is nothing to subtract from P(Norm).",
        "The way out: guess an answer, go there, and let what we get tell how good the guess was. That is the idea of "
        "policy gradients. (Policy is the name for a network that chooses what to do.)",
    )


def act_2() -> None:
    """The worked example, visit by visit."""
    title("Act 2: two visits, number by number")
    policy = BiasPolicy().double()
    for count, visit in enumerate(WORKED_EXAMPLE, start=1):
        step = take_step(policy, visit)
        print(paint(f"Visit {count}: hunger {number(visit.hunger)}, bias {number(step.bias)}\n", BOLD))
        show(step, explain=count == 1)
    print(f"After both visits P(Norm) at hunger {number(visit.hunger)} is {number(step.new_p_norm)}.\n")
    say(
        "When we are not hungry, Norm has become less likely, and that is right. No right answer was needed for it. "
        "Both visits moved the bias the same way, though the guesses were opposite: one was rewarded, one was not."
    )


def act_3() -> None:
    """Rewards of another size."""
    scale = float(significance(WORKED_EXAMPLE[0].hunger, MODEL.hungry_above))
    title(f"Act 3: {scale:+g} and {-scale:+g}")
    say(
        "Rewards need not be +1 and -1. Where more is at stake they may be larger. Here are the two visits again, with "
        "rewards of both sizes. The derivative comes from the guess alone. The reward multiplies it, so it sets not "
        "only the direction of the step but also its length:"
    )
    print("    rewards   visit   P(Norm)    dCE/db      x reward   = updated     new bias")
    for size in (1.0, scale):
        policy = BiasPolicy().double()
        for count, visit in enumerate(WORKED_EXAMPLE, start=1):
            step = take_step(policy, visit, size)
            product = f"{number(step.dce_db):11} x {step.reward:<+8g} = {number(step.manual):11}"
            print(f"    {rewards(size):9} {count:<7} {number(step.p_norm):10} {product} {number(step.new_bias)}")
    print()
    say(
        f"Rewards {scale:g} times as large make the first step {scale:g} times as long. The second visit then starts "
        "from another bias, and so has another derivative. To train with larger rewards where hunger is far from the "
        "middle:"
    )
    print('    python scripts/train.py --env-kwargs \'{"reward_scheme": "graded"}\'\n')


def act_4(arguments: Arguments) -> None:
    """A visit of the user's own choice, and what a wrong sign does."""
    title("Act 4: a visit of your own")
    visit = Visit(arguments.hunger, arguments.draw, arguments.portion == "large")
    rate = -LEARNING_RATE if arguments.wrong_sign else LEARNING_RATE
    step = take_step(BiasPolicy().double(), visit, arguments.reward_scale, rate)
    chosen = f"hunger {number(visit.hunger)}, draw {number(visit.draw)}, a {arguments.portion} order"
    print(paint(f"{chosen}, rewards {rewards(arguments.reward_scale)}\n", BOLD))
    show(step, rate)
    likelier = (step.new_bias > step.bias) == (step.place is Restaurant.NORM)
    earned = f"{'rewarded' if step.reward > 0 else 'a bad guess'} and is now {'more' if likelier else 'less'} likely"
    say(
        f"P(Norm) at this hunger goes from {number(step.p_norm)} to {number(step.new_p_norm)}. {name(step.place)} was "
        f"{earned}: {'as it should be.' if likelier == (step.reward > 0) else 'the wrong way round!'}"
    )
    if arguments.wrong_sign:
        run_away(arguments.reward_scale)
    say("Now try numbers of your own, and step the wrong way to see what the sign is good for:")
    print("    python scripts/lesson.py --act 4 --hunger 0.2 --draw 0.01 --portion small")
    print("    python scripts/lesson.py --act 4 --reward-scale 2 --wrong-sign\n")


def run_away(scale: float) -> None:
    """Many visits, with the right and with the wrong sign."""
    say("And if every step went the wrong way? A thousand visits, with the same random numbers for either sign:")
    columns = [walk(scale, LEARNING_RATE), walk(scale, -LEARNING_RATE)]
    print(f"    {'':24}  right sign  wrong sign")
    for visits in (1, 100, 300, 1000):
        print(f"    bias after visit {visits:<7}", *(f"{biases[visits - 1]:z11.2f}" for biases in columns))
    policies = [BiasPolicy(bias=biases[-1]) for biases in columns]
    for hunger in (0.0, 1.0):
        p_norms = [torch.sigmoid(policy(torch.tensor([hunger]))).item() for policy in policies]
        print(f"    P(Norm | hunger {hunger})    ", *(f"{p_norm:11.2f}" for p_norm in p_norms))
    expected_reward = RestaurantModel(reward_scale=scale).expected_reward
    right, wrong = (f"{expected_reward(biases[-1]):z.2f}" for biases in columns)
    print()
    say(
        f"The best bias is {MODEL.optimal_bias():.2f}. With the right sign a rewarded guess becomes more likely. With "
        "the wrong sign a bad guess becomes more likely, and the bias runs away from where it should be. After all "
        f"these visits we may expect a mean reward of {right} with the right sign, of {wrong} with the wrong one."
    )


def walk(scale: float, learning_rate: float) -> list[float]:
    """The bias after each of 1,000 visits, with hungers, draws and orders from a seed."""
    policy, chance, biases = BiasPolicy().double(), random.Random(0), []
    for _ in range(1000):
        hunger, draw, order = chance.random(), chance.random(), chance.random()
        place, *_ = choose(policy, hunger, draw)
        visit = Visit(hunger, draw, large=serves_large(order, MODEL.large_portion_probability[place]))
        biases.append(take_step(policy, visit, scale, learning_rate).new_bias)
    return biases


def act_5() -> None:
    """Let the trainer run on."""
    config = TrainConfig()
    title(f"Act 5: {config.num_updates:,} visits")
    say(
        "Two visits are not enough. So the trainer runs on, one step a visit, each with a hunger, a random number and "
        f"an order drawn afresh. The dotted line is the best bias, known exactly here: {MODEL.optimal_bias():.2f}."
    )
    biases = [BiasPolicy().bias.item()]
    with closing(Trainer(config)) as trainer:
        logged = [trainer.update() for _ in range(config.num_updates)]
    biases += [line["policy/bias"] for line in logged]
    low, cells = -14, 56  # the chart goes from here to 0, four columns for each unit of bias
    print(f"    visits    bias   {low:<{cells}} 0")
    for visits in range(0, len(biases), 100):
        row = [" "] * (cells + 1)
        row[round(4 * (MODEL.optimal_bias() - low))] = ":"
        row[min(max(round(4 * (biases[visits] - low)), 0), cells)] = paint("*", YELLOW)
        print(f"    {visits:6,}  {biases[visits]:6.2f}   |{''.join(row)}|")
    late, last = biases[-1000:], logged[-1]
    difference = max(line["gradient/absolute_difference"] for line in logged)
    print(f"\n    mean of the bias, last 1,000 visits    {statistics.fmean(late):8.3f}")
    print(f"    its standard deviation                 {statistics.stdev(late):8.3f}")
    print(f"    P(Norm | hunger 0.0)                   {last['policy/p_norm/hunger_0.0']:8.2f}")
    print(f"    P(Norm | hunger 1.0)                   {last['policy/p_norm/hunger_1.0']:8.2f}")
    print(f"    autograd - by hand, largest difference {number(difference):>8}\n")
    say(
        "Not hungry: Squatch. Hungry: Norm. Nobody ever gave a right answer. The bias does not come to rest, it "
        "hovers: each visit moves it, and even the better place disappoints at times (of Norm's orders "
        f"{1 - MODEL.large_portion_probability[1]:.0%} are small)."
    )
    say("To train for yourself, and to look at it in TensorBoard (in a browser):")
    print("    python scripts/train.py\n    tensorboard --logdir runs")


# The pieces they print


REASONS = (
    "What does it make of this hunger, with the bias as it is?",
    "A random number between 0 and 1 picks a place: each has as much of the line as it is probable. So the likelier "
    "place comes more often, but the other one gets its chance too.",
    "Is it? We do not know yet. But if we act as if it were, we have a right answer, and with it a cross-entropy. It "
    "would be 0 if this place had probability 1.",
    "How does CE change with the bias? The bias changes z, z changes P (short for P(Norm)), and P changes CE. That "
    "makes three factors, and their product is the derivative.",
    "Only now do we learn whether the guess was good. A positive reward keeps the direction of the derivative. A "
    "negative one turns it around: away from this place, toward the other. PyTorch's autograd finds the same.",
    "A step against the derivative makes CE smaller. So a good guess becomes more likely, and a bad one, its "
    "derivative turned around, less likely. The learning rate sets how far to go.",
)


def show(step: Step, rate: float = LEARNING_RATE, *, explain: bool = False) -> None:
    """An update, from the hunger to the new bias; with the reasons for each part, if asked."""
    why = [fill(reason, "     ") + "\n" if explain else "" for reason in REASONS]
    t = SimpleNamespace(**{key: number(value) for key, value in step._asdict().items()})
    place, weight = name(step.place), number(BiasPolicy().weight.item())
    plus_bias = f"{'-' if step.bias < 0 else '+'} {number(abs(step.bias))}"
    slope = f"{'-1/P' if step.place is Restaurant.NORM else '1/(1-P)':7}"
    names, sections, mark = line(step)
    hunger, order = "hungry" if step.hungry else "not hungry", "large" if step.large else "small"
    guess, color = ("good", GREEN) if step.reward > 0 else ("bad", RED)
    reward = paint(f"{step.reward:+g}, a {guess} guess", color)
    sign, wrong = ("-", "") if rate > 0 else ("+", paint(" with the WRONG SIGN: + where - belongs", RED))
    print(f"""\
  1. Ask the network
{why[0]}\
       z = {weight} x {t.hunger} {plus_bias} = {t.z}
       P(Norm) = sigmoid(z) = {t.p_norm}
       P(Squatch) = 1 - P(Norm) = {t.p_squatch}

  2. Draw a place
{why[1]}\
       {names}
       {sections}
       {mark}

  3. Guess that {place} is right
{why[2]}\
       CE = -log P({place}) = {t.ce}

  4. Derive CE with respect to the bias, by the chain rule
{why[3]}\
       dCE/dP = {slope} = {t.dce_dp}
       dP/dz  = P(1-P)  = {t.dp_dz}
       dz/db  = 1       = {t.dz_db}
       dCE/db = {t.dce_dp} x {t.dp_dz} x {t.dz_db} = {t.dce_db}

  5. Go there, and let the reward correct the derivative
{why[4]}\
       {hunger}, and a {order} order: reward {reward}
       updated derivative = {t.dce_db} x {step.reward:+g} = {t.manual}
       autograd finds       {t.autograd}   (difference {number(abs(step.autograd - step.manual))})

  6. Step{wrong}
{why[5]}\
       new bias = bias {sign} learning rate x updated derivative
                = {t.bias} {sign} {number(abs(rate))} x {t.manual} = {t.new_bias}
""")


def line(step: Step) -> tuple[str, str, str]:
    """The line from 0 to 1: whose section is where, and where the random number falls."""
    encoding, signs = sys.stdout.encoding, "═┼─▲"
    if signs.encode(encoding, "ignore").decode(encoding) != signs:
        signs = "=|-^"
    mark = int(step.draw * CELLS)
    split = round(step.p_squatch * CELLS)
    split = min(split, mark) if step.place is Restaurant.NORM else max(split, mark + 1)  # however small the section
    left, right = f"Squatch: 0 to {number(step.p_squatch)}", f"Norm: {number(step.p_squatch)} to 1"
    room = min(max(split, len(left)), CELLS - len(right))
    names = f"  {paint(f'{left:^{room}}', GREEN)} {paint(f'{right:^{CELLS - room}}'.rstrip(), RED)}"
    sections = f"0 {paint(signs[0] * split, GREEN)}{signs[1]}{paint(signs[2] * (CELLS - split), RED)} 1"
    column = 2 + mark + (mark >= split)
    text = f"random number {number(step.draw)}: {name(step.place)}"
    if mark < CELLS / 2:
        return names, sections, " " * column + paint(signs[3], YELLOW) + " " + text
    return names, sections, f"{text:>{column - 1}} {paint(signs[3], YELLOW)}"


def number(value: float) -> str:
    """A number to six decimals, fewer where the rest are zeros; more where it would be rounded to 0 or 1."""
    if value and not 1e-4 <= abs(value) < 1e6:  # noqa: PLR2004
        return f"{value:.3g}"
    text = f"{value:z.{9 if 0.999999 < abs(value) < 1 else 6}f}".rstrip("0")  # noqa: PLR2004
    return text + "0" if text.endswith(".") else text


def name(place: Restaurant) -> str:
    """Squatch or Norm."""
    return place.name.title()


def rewards(size: float) -> str:
    """Both rewards of a size."""
    return f"{size:+g}/{-size:+g}"


def title(text: str) -> None:
    """The heading of an act."""
    print(paint(f"\n{text}\n{'=' * len(text)}\n", BOLD))


def say(*paragraphs: str) -> None:
    """Paragraphs, each followed by an empty line."""
    for paragraph in paragraphs:
        print(fill(paragraph), end="\n\n")


def fill(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 78 columns."""
    return textwrap.fill(text, 78, initial_indent=indent, subsequent_indent=indent)


def paint(text: str, color: str) -> str:
    """The text in a color, in a terminal that wants colors."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\033[{color}m{text}\033[0m" if wanted else text


if __name__ == "__main__":
    sys.exit(main())
