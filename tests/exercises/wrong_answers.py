"""Typical wrong answers as learners write them: for each function its parameters, and (code, words of the hint)."""

WRONG_ANSWERS = {
    "sigmoid(z)": [
        ("return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z)", "only the numerator"),
        ("return 0.5 * z / (1 + abs(z)) + 0.5", "z / (1 + |z|)"),
        ("return 1 / (1 + math.exp(min(z, 700)))", "The minus in the exponent is missing"),
        ("return 1 / 1 + np.exp(-z)", "This is 1 + exp(-z)"),
        ("return 1 / np.exp(-z)", "The denominator needs a 1"),
        ("return torch.exp(-torch.tensor(z))", "exp(-z) alone is no probability"),
        ("return 1 / (1 - np.exp(-z))", "The denominator is 1 - exp(-z)"),
        ("return math.tanh(z)", "tanh squeezes into the range from -1 to 1"),
        ("return (1 + math.tanh(z)) / 2", "twice as steep"),
        ("s = torch.sigmoid(torch.tensor(z)); return s * (1 - s)", "This is the slope of the sigmoid"),
        ("return 1.0 if z > 0 else 0.0", "jumps from 0 to 1"),
        ("return max(0, min(1, z))", "cuts z off at 0 and 1"),
        ("return np.logaddexp(0, z)", "softplus"),
        ("return 1 / (1 + 2.0 ** -z)", "base of the power is 2"),
        ("return 1 / (1 + np.exp(-abs(z)))", "Negative and positive z give the same"),
        ("return z", "returns z as it came"),
        ("return max(0, z)", "a rectifier"),
        ("return torch.nn.functional.logsigmoid(torch.tensor(z))", "the log of what is asked for"),
        ("return 1 / (1 + math.exp(-z))", "Right where it answers, but sigmoid(z=-1000) raises OverflowError"),
        ("return np.exp(z) / (1 + np.exp(z))", "infinity divided by infinity"),
    ],
    "guess_derivative(hunger, bias, place)": [
        ("p = sigmoid(WEIGHT * hunger + bias); return 1 - p if place == NORM else -p", "derivative of log P(place)"),
        ("p = sigmoid(WEIGHT * hunger + bias); return p if place == 1 else p - 1", "two places have changed roles"),
        ("return sigmoid(WEIGHT * hunger + bias) - 1", "Squatch gets the derivative of Norm"),
        ("return sigmoid(WEIGHT * hunger + bias)", "Norm gets the derivative of Squatch"),
        ("p = sigmoid(WEIGHT * hunger + bias); return -p if place else 1 - p", "where you have -P(Norm)"),
        ("p = sigmoid(WEIGHT * hunger + bias); return (p if place else 1 - p) - 1", "the place's own logit"),
        ("p = sigmoid(WEIGHT * hunger + bias); return -1 / p if place else 1 / (1 - p)", "This is dCE/dP"),
        ("p = sigmoid(WEIGHT * hunger + bias); return p * (1 - p)", "This is dP/dz"),
        ("p = sigmoid(WEIGHT * hunger + bias); return -p * (1 - p) if place else p * (1 - p)", "without the log"),
        ("return (sigmoid(WEIGHT * hunger + bias) - place) * hunger", "with respect to the weight"),
        ("return (sigmoid(WEIGHT * hunger + bias) - place) * WEIGHT", "dz/dhunger"),
        ("p = sigmoid(WEIGHT * hunger + bias); return -math.log(p if place else 1 - p)", "This is the cross-entropy"),
        ("p = sigmoid(WEIGHT * hunger + bias); return p if place else 1 - p", "This is P(place)"),
        ("p = sigmoid(WEIGHT * hunger + bias); return 1 - p if place else p", "both places get the same sign"),
        ("return sigmoid(WEIGHT * hunger) - place", "The bias is missing from z"),
        ("return sigmoid(hunger + bias) - place", "The weight is missing from z"),
        ("return sigmoid(bias) - place", "The hunger is missing from z"),
        ("return sigmoid(WEIGHT * (hunger + bias)) - place", "the bias is not multiplied by the weight"),
        ("return WEIGHT * hunger + bias - place", "uses z itself in place of P(Norm)"),
        ("return (sigmoid(WEIGHT * hunger + bias) > 0.5) - place", "rounded to 0 or 1"),
        ("p = sigmoid(WEIGHT * hunger + bias); return 2 * (p - place) * p * (1 - p)", "derivative of a squared error"),
    ],
    "times_reward(derivative, reward)": [
        ("return derivative", "The reward is missing"),
        ("return -derivative * reward", "The sign is reversed"),
        ("return derivative * abs(reward)", "The sign of the reward is lost"),
        ("return derivative * reward ** 2", "The reward is squared"),
        ("return derivative if reward > 0 else -derivative", "Only the sign of the reward is used"),
        ("return -derivative if reward < 0 else derivative", "Only the sign of the reward is used"),
        ("return derivative + reward", "The reward is added"),
        ("return derivative - reward", "The reward is subtracted"),
        ("return reward - derivative", "as if it were an error"),
        ("return derivative / reward", "divided by the reward"),
        ("return derivative * reward if reward > 0 else 0", "Bad guesses are ignored"),
        ("return reward", "This is the reward alone"),
        ("return abs(derivative) * reward", "The sign of the derivative is lost"),
        ("return derivative * (reward - 1)", "This multiplies by reward - 1"),
        ("return derivative * (1 - reward)", "This multiplies by 1 - reward"),
        ("return derivative * np.exp(reward)", "exponentiated"),
    ],
    "step(bias, learning_rate, updated_derivative)": [
        ("return bias + learning_rate * updated_derivative", "The minus is missing"),
        ("return bias - updated_derivative", "The learning rate is missing"),
        ("return bias + updated_derivative", "and so is the learning rate"),
        ("return -learning_rate * updated_derivative", "This is only the change"),
        ("return learning_rate * updated_derivative", "This is learning rate x derivative"),
        ("return bias - updated_derivative / learning_rate", "divided by the learning rate"),
        ("return bias - learning_rate", "The derivative is missing"),
        ("return bias - learning_rate * np.sign(updated_derivative)", "every step is equally long"),
        ("return bias * (1 - learning_rate * updated_derivative)", "The derivative multiplies the bias"),
        ("return learning_rate * (bias - updated_derivative)", "The learning rate multiplies the bias"),
        ("return bias", "comes back unchanged"),
        ("return learning_rate * updated_derivative - bias", "The bias is subtracted from the step"),
    ],
    "loss(probability, reward)": [
        ("return -probability * reward", "The log is missing, so P counts twice"),
        ("return probability * reward", "Minus and log are missing"),
        ("return math.log(probability) * reward", "The minus is missing: descent"),
        ("return -math.log(probability)", "The reward must multiply the log"),
        ("return -math.log(probability) + reward", "The reward must multiply the log"),
        ("return -math.log(probability * reward)", "The reward is inside the log"),
        ("return -torch.log10(torch.tensor(probability)) * reward", "This is log10"),
        ("return -np.log2(probability) * reward", "This is log2"),
        ("return -math.log(1 - probability) * reward", "makes the other place likelier"),
        ("return reward / probability", "1 / P in place of -log P"),
        ("return -probability * math.log(probability) * reward", "P log P weighs"),
        ("return (1 - probability) ** 2 * reward", "This is a squared error"),
        ("return (probability - reward) ** 2", "as if the reward were the right answer"),
        ("return -math.log(probability) * abs(reward)", "The sign of the reward is lost"),
        ("return -reward", "This is only the reward"),
        ("return -math.log(probability) / reward", "divided by the reward"),
        ("return -math.log(probability / (1 - probability)) * reward", "This is the log-odds"),
        ("return -(reward * math.log(probability) + (1 - reward) * math.log(1 - probability))", "binary cross-entropy"),
    ],
    "two_logits(logits, place)": [
        ("p = softmax(logits); p = [-x for x in p]; p[place] += 1; return p", "gradient of log P(place)"),
        ("return softmax(logits)", "These are the probabilities themselves"),
        ("p = softmax(logits); p[1 - place] -= 1; return p", "The places have changed roles"),
        ("p = softmax(logits); g = [0.0, 0.0]; g[place] = p[place] - 1; return g", "Only the logit of the place"),
        ("p = [sigmoid(z) for z in logits]; p[place] -= 1; return p", "a sigmoid of its own"),
        ("g = list(logits); g[place] -= 1; return g", "The logits themselves"),
        ("g = [math.exp(z) for z in logits]; g[place] -= 1; return g", "exp(z) is not yet a probability"),
        (
            "p = np.array(softmax(logits)); o = np.eye(2)[place]; return p[place] * (o - p)",
            "the gradient of P(place), not",
        ),
        ("p = np.array(softmax(logits)); o = np.eye(2)[place]; return p[place] * (p - o)", "gradient of -P(place)"),
        ("p = softmax(logits); return [x * (1 - x) for x in p]", "This is P (1 - P) for both"),
        ("p = softmax(logits); return [p[place] - 1] * 2", "Both logits get P(place) - 1"),
        ("p = softmax(logits); p[1] -= 1; return p", "always subtracted from Norm's"),
        ("p = softmax(logits); return [x - 1 for x in p]", "1 is subtracted for both places"),
        ("g = [0.0, 0.0]; g[place] = -1.0; return g", "The probabilities are missing"),
        ("return softmax(logits)[place] - 1", "returns 1 number, and must return 2"),
    ],
    "mean_and_variance(probabilities, derivatives, rewards, baseline)": [
        ("return moments(probabilities, [d * r for d, r in zip(derivatives, rewards)])", "The baseline has no effect"),
        (
            "return moments(probabilities, [d * (r + baseline) for d, r in zip(derivatives, rewards)])",
            "The baseline is added to the reward",
        ),
        (
            "return moments(probabilities, [d * r - baseline for d, r in zip(derivatives, rewards)])",
            "subtracted from derivative x reward",
        ),
        (
            "u = np.array(derivatives) * (np.array(rewards) - baseline); return u.mean(), u.var()",
            "All ways count the same here",
        ),
        (
            "u = np.array(derivatives) * (np.array(rewards) - baseline); return np.dot(probabilities, u), u.var()",
            "each way must be weighted by its probability, too",
        ),
        (
            "m, v = moments(probabilities, np.array(derivatives) * (np.array(rewards) - baseline)); return m, v ** 0.5",
            "the standard deviation",
        ),
        (
            "u = np.array(derivatives) * (np.array(rewards) - baseline); p = np.array(probabilities); "
            "return (p * u).sum(), (p * u * u).sum()",
            "the mean of the squares. The variance is that minus",
        ),
        (
            "m, v = moments(probabilities, np.array(derivatives) * (np.array(rewards) - baseline)); return v, m",
            "in reverse order: the mean comes first",
        ),
        ("return moments(probabilities, [r - baseline for r in rewards])", "The derivative is missing"),
        ("return moments(probabilities, derivatives)", "The reward is missing"),
        (
            "return moments(probabilities, [d * (baseline - r) for d, r in zip(derivatives, rewards)])",
            "not baseline minus reward",
        ),
        (
            "return moments(probabilities, [d * r * baseline for d, r in zip(derivatives, rewards)])",
            "The baseline multiplies the reward",
        ),
        (
            "m, v = moments(probabilities, np.array(derivatives) * (np.array(rewards) - baseline)); return m",
            "returns 1 number, and must return 2",
        ),
    ],
    "reward_to_go(rewards, terminated, truncated, next_values, discount)": [
        (
            "return [x - (1 - discount) * y for x, y in zip(backward(rewards, terminated, truncated, next_values, discount),"
            " backward(rewards, terminated, truncated, [0.0] * len(rewards), discount))]",
            "one power too high for the rewards",
        ),
        (
            "return backward(rewards, terminated, truncated, next_values, discount, own=False)",
            "the step's own reward is left out",
        ),
        ("return backward(rewards, terminated, truncated, next_values, 1.0)", "The discount is missing"),
        (
            "return [discount * r for r in backward(rewards, terminated, truncated, next_values, discount)]",
            "one power too high",
        ),
        (
            "return [discount ** t * r for t, r in "
            "enumerate(backward(rewards, terminated, truncated, next_values, discount))]",
            "counted from the start of the list",
        ),
        ("return backward(rewards, [False] * len(rewards), truncated, next_values, discount)", "past a termination"),
        (
            "return backward(rewards, terminated, [False] * len(rewards), next_values, discount)",
            "Sums run on past a cut",
        ),
        (
            "ended = [a or b for a, b in zip(terminated, truncated)]; "
            "return backward(rewards, ended, truncated, next_values, discount)",
            "A cut is treated like a termination",
        ),
        ("return backward(rewards, truncated, terminated, next_values, discount)", "The flags are swapped"),
        (
            "ended = [a or b for a, b in zip(terminated, truncated)]; "
            "return backward(rewards, [False] * len(rewards), ended, next_values, discount)",
            "After a termination next_values[t] is added",
        ),
        (
            "return backward(rewards, terminated, truncated, [v / discount for v in next_values], discount)",
            "The value after a cut is not discounted",
        ),
        (
            "return [r + discount * (0 if e else v) for r, e, v in zip(rewards, terminated, next_values)]",
            "This is reward + discount * next value at each step",
        ),
        ("return list(rewards)", "each step's own reward"),
        (
            "return backward(rewards, terminated, truncated, next_values, discount)[::-1]",
            "in reverse order: turn the list around",
        ),
        ("return np.cumsum(rewards)", "the past"),
        ("return [sum(rewards)] * len(rewards)", "the sum of all rewards in the list"),
        (
            "return [rewards[t] + discount * rewards[t + 1] for t in range(len(rewards))]",
            "There is no step after the last one",
        ),
    ],
    "gae(rewards, terminated, truncated, values, next_values, discount, gae_lambda)": [
        (
            "return backward_gae(rewards, terminated, truncated, [0.0] * len(values), next_values, discount, gae_lambda)",
            "The value of the state is not subtracted",
        ),
        (
            "return backward_gae(rewards, terminated, truncated, values, next_values, discount, 1.0)",
            "lambda is missing",
        ),
        (
            "return backward_gae(rewards, terminated, truncated, values, next_values, gae_lambda, discount)",
            "discount and lambda have changed places",
        ),
        (
            "return backward_gae(rewards, terminated, truncated, values, next_values, discount, gae_lambda / discount)",
            "The discount is missing from the sum",
        ),
        (
            "return backward_gae(rewards, terminated, truncated, values, next_values, discount, 0.0)",
            "This is delta alone",
        ),
        (
            "return backward_gae(rewards, [False] * len(rewards), truncated, values, next_values, discount, gae_lambda)",
            "A termination has no effect",
        ),
        (
            "return backward_gae(rewards, terminated, [False] * len(rewards), values, next_values, discount, gae_lambda)",
            "The sum runs past a cut",
        ),
        (
            "ended = [a or b for a, b in zip(terminated, truncated)]; "
            "return backward_gae(rewards, ended, truncated, values, next_values, discount, gae_lambda)",
            "A cut is treated like a termination",
        ),
        (
            "ended = [a or b for a, b in zip(terminated, truncated)]; "
            "return backward_gae(rewards, [False] * len(ended), ended, values, next_values, discount, gae_lambda)",
            "After a termination next_values[t] is counted",
        ),
        (
            "a = backward_gae(rewards, terminated, truncated, values, next_values, discount, gae_lambda); "
            "return [x + v for x, v in zip(a, values)]",
            "the target for the value function",
        ),
        (
            "a = backward_gae(rewards, terminated, truncated, values, next_values, discount, gae_lambda); "
            "return [-x for x in a]",
            "The sign is reversed: an action that went better",
        ),
        (
            "return backward_gae([0.0] * len(rewards), terminated, truncated, values, next_values, discount, gae_lambda)",
            "The reward is missing from delta",
        ),
        ("return backward(rewards, terminated, truncated, next_values, discount)", "This is the reward-to-go"),
        (
            "a = np.array(backward_gae(rewards, terminated, truncated, values, next_values, discount, gae_lambda)); "
            "return (1 - gae_lambda) * a",
            "It is multiplied by 1 - lambda",
        ),
    ],
    "clipped(log_prob, old_log_prob, advantage, clip_range)": [
        ("return math.exp(log_prob - old_log_prob) * advantage", "Nothing is clipped"),
        ("return clip(math.exp(log_prob - old_log_prob), clip_range) * advantage", "only the clipped ratio counts"),
        (
            "r = math.exp(log_prob - old_log_prob); return max(r * advantage, clip(r, clip_range) * advantage)",
            "The larger of the two is taken",
        ),
        (
            "r = math.exp(old_log_prob - log_prob); return min(r * advantage, clip(r, clip_range) * advantage)",
            "The ratio is upside down",
        ),
        (
            "r = log_prob - old_log_prob; return min(r * advantage, clip(r, clip_range) * advantage)",
            "The difference of the logs is used as the ratio",
        ),
        (
            "r = log_prob / old_log_prob; return min(r * advantage, clip(r, clip_range) * advantage)",
            "The logs are divided",
        ),
        (
            "r = math.exp(log_prob - old_log_prob); return -min(r * advantage, clip(r, clip_range) * advantage)",
            "this is the loss, to be minimized",
        ),
        ("r = math.exp(log_prob - old_log_prob); return min(r, 1 + clip_range) * advantage", "limited from above for"),
        ("r = math.exp(log_prob - old_log_prob); return min(r, clip(r, clip_range))", "The advantage is missing"),
        (
            "r = torch.exp(torch.tensor(log_prob - old_log_prob)); "
            "return torch.clamp(r * advantage, 1 - clip_range, 1 + clip_range)",
            "ratio * advantage is clipped, not the ratio",
        ),
        (
            "r = math.exp(log_prob - old_log_prob); return min(r * advantage, np.clip(r, -clip_range, clip_range) * advantage)",
            "within -clip_range and clip_range",
        ),
        (
            "r = math.exp(log_prob - old_log_prob); return 0.0 if abs(r - 1) > clip_range else r * advantage",
            "Outside of the range this returns 0",
        ),
        ("return log_prob * advantage", "the first step's objective"),
        (
            "r = math.exp(log_prob - old_log_prob); return min(r * advantage, clip(r, 2 * clip_range) * advantage)",
            "twice as wide",
        ),
    ],
}

HELPERS = """
import numpy as np
import torch


def softmax(z):
    return [math.exp(x) / sum(map(math.exp, z)) for x in z]


def moments(p, u):
    mean = sum(a * b for a, b in zip(p, u))
    return mean, sum(a * (b - mean) ** 2 for a, b in zip(p, u))


def clip(ratio, clip_range, middle=1):
    return min(max(ratio, middle - clip_range), middle + clip_range)


def backward(rewards, terminated, truncated, next_values, discount, own=True):
    result, future = [0.0] * len(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        future = 0.0 if terminated[t] else next_values[t] if truncated[t] else future
        result[t] = discount * future + (rewards[t] if own else 0.0)
        future = rewards[t] + discount * future
    return result


def backward_gae(rewards, terminated, truncated, values, next_values, discount, gae_lambda):
    result, advantage = [0.0] * len(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        next_value = 0.0 if terminated[t] else next_values[t]
        advantage = 0.0 if terminated[t] or truncated[t] else advantage
        advantage = rewards[t] + discount * next_value - values[t] + discount * gae_lambda * advantage
        result[t] = advantage
    return result
"""  # what the answers above call; right by itself
