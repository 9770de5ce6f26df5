import pytest
import torch
from torch import nn

from attn_course.training import best_device, seeded, train


def line(seed: int = 0) -> nn.Linear:
    with seeded(seed):
        return nn.Linear(3, 1)


def loss(model, generator):
    x = torch.randn(16, 3, generator=generator)
    return ((model(x) - x.sum(dim=1, keepdim=True)) ** 2).mean()


def test_a_line_is_learnt():
    model = line()
    history = train(model, loss, steps=200, learning_rate=0.05, seed=0)
    assert len(history.losses) == 200 and history.losses[-1] < 0.01 * history.losses[0]
    assert not history.interrupted and not model.training


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    runs = [train(line(), loss, steps=5, learning_rate=0.05, seed=seed).losses for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train(line(), loss, steps=3, learning_rate=0.05, seed=0)
    assert torch.random.get_rng_state().equal(before)


def test_an_interrupt_keeps_what_was_learnt():
    calls = []

    def interrupted(model, generator):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(model, generator)

    model = line()
    history = train(model, interrupted, steps=50, learning_rate=0.05, seed=0, measure=lambda m: {"w": 1.0})
    assert history.interrupted and len(history.losses) == 3
    assert history.measures["w"][-1] == (3, 1.0)
    assert not model.weight.equal(line().weight)


def test_measures_are_taken_in_eval_mode_without_gradients_at_the_steps_asked_for():
    seen = []

    def measure(model):
        seen.append((model.training, torch.is_grad_enabled()))
        return {"loss": 0.5}

    history = train(line(), loss, steps=5, learning_rate=0.05, seed=0, measure=measure, measure_every=2)
    assert [step for step, _ in history.measures["loss"]] == [0, 2, 4, 5]
    assert seen == [(False, False)] * 4


@pytest.mark.parametrize(("steps", "rate"), [(0, 0.1), (5, 0.0)])
def test_bad_settings_are_refused_with_their_numbers(steps, rate):
    with pytest.raises(ValueError, match=f"{steps} and {rate}"):
        train(line(), loss, steps=steps, learning_rate=rate, seed=0)


def test_the_best_device_can_hold_a_tensor():
    assert torch.zeros(2, device=best_device()).sum() == 0
