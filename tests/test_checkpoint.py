import pytest
import torch

from pgtorch import Policy, TrainConfig, train
from pgtorch.checkpoint import CheckpointError, load_run

SHORT = {"num_updates": 3, "pictures": False}


def test_a_run_is_loaded_as_it_ended(tmp_path):
    for number, env_id in enumerate(["restaurant_env:Restaurant-v0", "CartPole-v1"]):
        result = train(TrainConfig(env_id, run_dir=tmp_path / str(number), **SHORT))
        run = load_run(result.run_dir)
        assert run.config == TrainConfig(env_id, run_dir=tmp_path / str(number), **SHORT)
        for name, value in result.policy.state_dict().items():
            assert torch.equal(run.policy.state_dict()[name], value)
        assert (run.normalize_observation is None) == (number == 0)
    assert abs(run.normalize_observation.moments.mean).max() > 0


def test_refuses_what_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_run(tmp_path)
    run = train(TrainConfig(run_dir=tmp_path / "run", **SHORT)).run_dir
    path = run / "checkpoint-000000003.pt"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint-000000003\.pt cannot be read"):
            load_run(run)


def test_says_when_a_policy_is_of_a_class_it_cannot_make(tmp_path):
    class Mine(Policy):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(torch.zeros(2))

        def distribution(self, observation):
            return torch.distributions.Categorical(logits=self.scores.expand(len(observation), 2))

    run = train(TrainConfig(run_dir=tmp_path / "run", check_gradient=0, **SHORT), policy=Mine()).run_dir
    with pytest.raises(CheckpointError, match="the policy is a Mine, which only its own code can make"):
        load_run(run)
