"""tools/reproduce: its table of experiments, its runs and its figures."""

import dataclasses
import json
import math
import pathlib

import keras
import pytest
import tensorflow as tf

import report
import runs
import train_changed
from experiments import EXPERIMENTS, Experiment, Variant
from hvd_imagenet import flags
from hvd_imagenet.optimizers import MomentumSGD
from hvd_imagenet.plan import make_plan
from runs import Run

_REPOSITORY = pathlib.Path(__file__).parent.parent
_FOLDER = _REPOSITORY / "tools" / "reproduce"
_FLAGS = _REPOSITORY / "flags" / "small"
_VARIANTS = [v for e in EXPERIMENTS for v in e.variants]


# --- The table of experiments. ---


@pytest.mark.parametrize("variant", _VARIANTS, ids=lambda v: v.name)
def test_a_variant_has_a_recipe_and_flags_that_fit(variant):
    recipe = Run(variant, 3).asked()["recipe"]
    assert recipe["seed"] == 3
    # What batch normalization sees, and the reference of the linear rule.
    assert recipe["batch_size_per_process"] == 32
    rate = recipe["base_learning_rate"] / recipe["base_batch_size"]
    if variant.name == "loss_scaled":
        rate *= 16
    assert rate == 0.0125 / 32


def test_a_name_stands_for_the_same_runs_everywhere():
    by_name = {}
    for variant in _VARIANTS:
        run = dataclasses.replace(variant, label="")
        assert by_name.setdefault(variant.name, run) == run
    asked = [json.dumps(Run(v, 0).asked()) for v in by_name.values()]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(
    ("recipe", "steps", "warmup", "first", "peak", "last"),
    [
        ("goyal2017", 30, 5, 0.0125, 0.2, 0.002),
        ("you2017_lars", 15, 3, 0.0125, 0.4, 0.004),
        ("akiba2017", 15, 0, 0.2, 0.4, 0.004),
    ],
)
def test_golden_plan(recipe, steps, warmup, first, peak, last):
    plan = make_plan(
        flags.read(str(_FLAGS / f"{recipe}.flags")),
        world_size=1,
        train_images=2560,
        validation_images=2440,
    )
    assert (plan.total_steps, plan.warmup_steps) == (steps, warmup)
    assert plan.learning_rate(0) == pytest.approx(first)
    assert plan.schedule.peak == pytest.approx(peak)
    assert plan.learning_rate(steps - 1) == pytest.approx(last)


# --- What is changed in the trainer. ---


def _weights(optimizer, rates=(0.1, 0.1, 0.2, 0.2, 0.02)):
    """Of a weight of 1 whose gradient is 1, after steps of these rates."""
    weight = keras.Variable(1.0, name="kernel")
    seen = []
    for rate in rates:
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(1.0)], [weight])
        seen.append(float(weight))
    return seen


def test_the_rate_in_the_buffer():
    assert _weights(train_changed.RateInBuffer()) == pytest.approx(
        [0.9, 0.71, 0.339, -0.1949, -0.69541]
    )
    nesterov = train_changed.RateInBuffer(nesterov=True)
    assert _weights(nesterov) == pytest.approx(
        [0.81, 0.539, 0.0051, -0.67541, -1.145869], abs=1e-6
    )
    # At a constant rate there is no difference, weight decay or not.
    rates = [0.1] * 4
    decayed = {"weight_decay": 0.5}
    assert _weights(train_changed.RateInBuffer(**decayed), rates) == (
        pytest.approx(_weights(MomentumSGD(**decayed), rates))
    )


def test_decay_of_batch_normalization():
    optimizer = train_changed.BatchNormDecay(weight_decay=0.5)
    variables = [keras.Variable(1.0, name=n) for n in ("gamma", "beta", "bias")]
    optimizer.learning_rate = 0.1
    optimizer.apply([tf.constant(0.0)] * 3, variables)
    assert [float(v) for v in variables] == pytest.approx([0.95, 0.95, 1.0])


def test_a_loss_that_is_multiplied():
    optimizer = train_changed.loss_times(16.0)(weight_decay=0.5)
    assert float(optimizer.scale_loss(tf.constant(2.0))) == 32.0
    # Whoever applies does not divide again.
    rates = [0.1, 0.2]
    assert _weights(optimizer, rates) == pytest.approx(
        _weights(MomentumSGD(weight_decay=0.5), rates)
    )


# --- Summaries. ---


def test_a_summary():
    found = report.summary([1.0, 2.0, None, 6.0])
    assert (found.mean, found.count, found.diverged) == (3.0, 3, 1)
    assert found.deviation == pytest.approx(math.sqrt(7.0))
    assert found.text() == "3.00 ± 2.65 (1 of 4 diverged)"
    assert report.summary([0.5]).text(100.0) == "50.00"
    assert report.summary([None]).text() == "(1 of 1 diverged)"


def test_a_difference_is_welchs():
    # Variances 1 and 4, of 3 and 3: 25 / (1 + 16) x 2 = 2.941 degrees of
    # freedom, of which Student's t has 3.2185 at 97.5 %.
    mean, low, high = report.difference([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert mean == pytest.approx(-4.0)
    reach = 3.2185 * math.sqrt(5.0 / 3.0)
    assert (low, high) == pytest.approx((-4.0 - reach, -4.0 + reach), abs=1e-3)
    assert report.difference([1.0], [2.0, 3.0]) is None


def _made_up(errors):
    return {
        seed: {
            "error": e,
            "train_loss": e and 10 * e,
            "losses": [2.0, 1.0] * 20,
        }
        for seed, e in enumerate(errors)
    }


def test_a_table():
    experiment = Experiment(
        "of_two", (Variant("a", "the first"), Variant("b", "the second"))
    )
    outcomes = {
        "a": _made_up([0.01, 0.03]),
        "b": _made_up([0.05, 0.07, None]),
    }
    first, second = report.table(experiment, outcomes).splitlines()[2:]
    assert first == "| the first | 2 | 2.00 ± 1.41 |  | 0.200 ± 0.141 |  |"
    # Student's t with 2 degrees of freedom: 4.303 x sqrt(2).
    assert second == (
        "| the second | 3 | 6.00 ± 1.41 (1 of 3 diverged) |"
        " +4.00 (\N{MINUS SIGN}2.08 to +10.08) |"
        " 0.600 ± 0.141 (1 of 3 diverged) |"
        " +0.400 (\N{MINUS SIGN}0.208 to +1.008) |"
    )


def test_a_table_of_curves():
    # Steps 1, 2 to 20 and 21 to 40; the second seed's are 1 more.
    def losses(*parts):
        return {
            seed: {"losses": [a + seed, *[b + seed] * 19, *[c + seed] * 20]}
            for seed, (a, b, c) in enumerate(parts)
        }

    experiment = Experiment(
        "of_two", (Variant("a", "the first"), Variant("b", "the second"))
    )
    outcomes = {
        "a": losses((3.0, 2.0, 1.0), (3.0, 2.0, 1.0)),
        "b": losses((3.0, 2.5, 0.75), (3.0, 1.5, 0.0)),
    }
    second, another = report.curves_table(experiment, outcomes).splitlines()[2:]
    assert second == "| the second | 0 | 0.5 | 0.5 | 0.5 | 0.6 |"
    assert another == "| the first, another seed | 1 | 1 | 1 | 1 | 1 |"


def test_everything_is_written_at_its_place(tmp_path):
    text = (_FOLDER / "README.md").read_text()
    (tmp_path / "README.md").write_text(text)
    outcomes = {v.name: _made_up([0.01, 0.03]) for v in _VARIANTS}
    report.write(tmp_path, outcomes)
    written = (tmp_path / "README.md").read_text()
    for experiment in EXPERIMENTS:
        assert report.table(experiment, outcomes) in written
    for figure in ("minibatch.svg", "curves.svg"):
        assert f"({figure})" in written
        assert "<svg" in (tmp_path / figure).read_text()
    # Again, and without what one of them needs: the rest stays.
    del outcomes["lars"]
    report.write(tmp_path, outcomes)
    assert (tmp_path / "README.md").read_text() == written
    with pytest.raises(ValueError, match="<!-- warmup -->"):
        report.with_table("", "warmup", "")


# --- Runs. ---


def _keep(directory, run, **found):
    (directory / "outcomes").mkdir(parents=True, exist_ok=True)
    path = directory / "outcomes" / f"{run.name}.json"
    path.write_text(json.dumps({"asked": run.asked(), **found}))
    return path


def test_an_outcome_is_of_what_is_asked_now(tmp_path):
    run = Run(Variant("a", "", flags=("--epochs=2",)), 0)
    assert runs.outcome(tmp_path, run) is None
    _keep(tmp_path, run, error=0.1)
    assert runs.outcome(tmp_path, run)["error"] == 0.1
    for change in (
        {"flags": ("--epochs=3",)},
        {"change": "rate_in_buffer"},
        {"processes": 2},
    ):
        other = Run(dataclasses.replace(run.variant, **change), 0)
        assert runs.outcome(tmp_path, other) is None


def test_what_is_done_is_not_trained_again(tmp_path, capsys):
    run = Run(Variant("a", ""), 0)
    path = _keep(tmp_path, run, error=0.1)
    # There is no such data.
    runs.train_all(tmp_path, [run], "/none", 1)
    assert capsys.readouterr().out == "1 of 1 runs are done already.\n"
    path.unlink()
    with pytest.raises(RuntimeError, match=r"failed: a-seed0$"):
        runs.train_all(tmp_path, [run], "/none", 1)
    assert "/none" in (tmp_path / "runs" / "a-seed0.log").read_text()


@pytest.mark.slow
def test_runs_that_are_interrupted_go_on(digits, tmp_path, capsys):
    data = str(digits)
    tiny = ("--image_size=16", "--evaluation_resize=16", "--epochs=1")
    done = Run(Variant("done", "", flags=tiny), 0)
    path = _keep(tmp_path, done, error=0.1)
    plain = Run(Variant("plain", "", flags=(*tiny, "--warmup=none")), 0)
    wild = Run(
        Variant("wild", "", flags=tiny, change="loss_times=1e30"),
        0,
    )
    broken = Run(Variant("broken", "", flags=tiny, change="nothing"), 0)
    with pytest.raises(RuntimeError, match=r"failed: broken-seed0$"):
        runs.train_all(tmp_path, [done, broken, plain, wild], data, 2)
    assert "1 of 4 runs are done" in capsys.readouterr().out
    assert json.loads(path.read_text())["error"] == 0.1
    found = runs.outcome(tmp_path, plain)
    assert 0.0 < found["error"] < 1.0
    assert found["train_loss"] == pytest.approx(sum(found["losses"]) / 3)
    assert runs.outcome(tmp_path, wild)["error"] is None
    # What is kept is small.
    assert not (tmp_path / "runs" / plain.name).exists()
    runs.train_all(tmp_path, [done, plain, wild], data, 2)
    assert "3 of 3 runs are done" in capsys.readouterr().out
