"""Ranks under real horovodrun: exchange, loss scaling, any Keras model."""

import itertools
import json
import pathlib
import re
import textwrap

import keras
import numpy as np
import pytest

import jobs
from hvd_imagenet import devices, environment, optimizers
from hvd_imagenet.world import World, launched_size

_PROGRAMS = pathlib.Path(__file__).parent / "programs"


def _result(finished):
    """What a program's rank 0 printed behind RESULT."""
    (text,) = re.findall(r"RESULT (.*)", finished.stdout)
    return json.loads(text)


@pytest.mark.core
@pytest.mark.horovod
def test_an_inf_on_one_rank_is_skipped_by_all_together():
    ranks = _result(jobs.run(2, str(_PROGRAMS / "inject_inf.py")))
    assert len(ranks) == 2
    # Every rank has the same weights and loss scale after every step.
    assert ranks[0] == ranks[1]
    steps = ranks[0]
    changed = [
        after["checksum"] != before["checksum"]
        for before, after in itertools.pairwise(steps)
    ]
    # Step 2 had the inf: the weights stay, the scale halves, training goes on.
    assert changed == [True, False, True, True]
    assert [s["scale"] for s in steps] == [1024, 1024, 512, 512, 512]
    # Batch normalization's statistics and the momentum stay finite too.
    assert all(s["finite"] for s in steps)


@pytest.mark.core
@pytest.mark.horovod
def test_gradients_in_half_precision_are_averaged():
    ranks = _result(jobs.run(2, str(_PROGRAMS / "exchange_half.py")))
    assert len(ranks) == 2
    sent = np.float64([rank.pop("sent") for rank in ranks])
    np.testing.assert_equal(ranks[0], ranks[1])
    assert set(ranks[0]["dtypes"]) == {"float32"}
    for compression, bits in (("fp16", 10), ("bf16", 7), ("fp16 on GPUs", 9)):
        means = ranks[0][compression]
        # Half a unit in the last place when sent, and again for the mean; or
        # of a subnormal number.
        wrong = np.abs(means["spread"] - sent.mean(0))
        assert np.all(wrong <= np.abs(sent).max(0) * 2.0**-bits + 2.0**-24)
        assert np.any(wrong > 0)
        # What is not finite on one rank reaches all.
        np.testing.assert_equal(means["infinite"], [np.inf, 1.0])
        np.testing.assert_equal(means["undefined"], [np.nan, 1.0])
    # All of them are inf as a float16 sum of the ranks.
    assert ranks[0]["fp16"]["large"] == [60000.0, -60000.0, 65504.0]
    # Horovod has no sum of it.
    assert "--compression=bf16 needs a Horovod" in ranks[0]["refusal"]
    assert "--compression=fp16" in ranks[0]["refusal"]


@pytest.mark.slow
@pytest.mark.horovod
def test_any_optimizer_applies_the_mean_gradient():
    program = _PROGRAMS / "distribute_optimizers.py"
    ranks = _result(jobs.run(2, str(program)))
    assert len(ranks) == 2
    for name, found in ranks[0].items():
        # The same sums on all ranks, to the bit.
        assert found["weights"] == ranks[1][name]["weights"], name
        np.testing.assert_allclose(
            found["weights"], found["expected"], rtol=1e-5, err_msg=name
        )
    # All skipped the step.
    assert [rank["skipped"]["scale"] for rank in ranks] == [2.0, 2.0]


def _example():
    """The code of the README for any Keras model."""
    text = (_PROGRAMS.parent.parent / "README.md").read_text()
    _, _, section = text.partition("\n## Any Keras model\n")
    section, _, _ = section.partition("\n## ")
    lines = [
        line
        for line in section.splitlines()
        if line.startswith("    ") or not line
    ]
    return textwrap.dedent("\n".join(lines)).strip() + "\n"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """What the README's example gives, by ranks, on each rank."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "example.py").write_text(_example())
    program = (
        f"import os, runpy, sys; os.chdir({str(folder)!r});"
        "sys.argv[:] = ['', 'example.py'];"
        f"runpy.run_path({str(_PROGRAMS / 'run_example.py')!r},"
        " run_name='__main__')"
    )
    return {
        1: _result(jobs.run(0, "-c", program)),
        2: _result(jobs.run(2, "-c", program)),
        "folder": folder,
    }


def _flat(weights):
    return np.concatenate(weights)


def test_the_readmes_example_is_short():
    lines = _example().splitlines()
    assert 10 < len(lines) <= 30
    assert max(map(len, lines)) <= 80


@pytest.mark.core
@pytest.mark.horovod
def test_the_readmes_example_is_the_same_on_one_rank_and_two(example):
    ((one,), two) = example[1], example[2]
    first, second = (rank["averaged"] for rank in two)
    # Seeds differ by rank, so they begin alike only by the broadcast.
    assert first["weights"] == second["weights"]
    one = one["averaged"]
    difference = np.linalg.norm(_flat(first["weights"]) - _flat(one["weights"]))
    assert difference < 1e-5 * np.linalg.norm(_flat(one["weights"]))
    # All ranks see the metrics of all images.
    assert first["history"] == second["history"]
    for name, values in one["history"].items():
        # An image may be judged otherwise by a rounding error.
        tolerance = {"atol": 0.01} if "accuracy" in name else {"rtol": 1e-4}
        np.testing.assert_allclose(first["history"][name], values, **tolerance)
    assert first["history"]["val_accuracy"][-1] > 0.95
    # The last of 220 steps.
    assert first["rate"] == pytest.approx(1.6e-5, rel=0.01)


@pytest.mark.horovod
def test_without_averaging_the_example_goes_apart(example):
    first, second = (rank["apart"]["weights"] for rank in example[2])
    difference = np.linalg.norm(_flat(first) - _flat(second))
    assert difference > 0.05 * np.linalg.norm(_flat(first))


@pytest.mark.horovod
def test_the_examples_model_is_keras_own(example):
    model = keras.models.load_model(example["folder"] / "digits.keras")
    assert type(model.optimizer) is keras.optimizers.SGD
    assert not optimizers.is_distributed(model.optimizer)
    epochs = len(example[2][0]["apart"]["history"]["loss"])
    assert int(model.optimizer.iterations) == 22 * epochs


def test_a_launcher_without_horovod_is_named(tmp_path):
    # A package of the same name that cannot be imported, before the real one.
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text(
        "raise ImportError('no horovod here')"
    )
    finished = jobs.train(
        0,
        "--data_format=synthetic",
        f"--workdir={tmp_path / 'run'}",
        check=False,
        PYTHONPATH=str(tmp_path),
        HOROVOD_SIZE="2",
    )
    assert finished.returncode == 1
    (line,) = jobs.own_lines(finished.stderr)
    assert line.startswith("error: ")
    assert "no horovod here" in line
    assert "tools/setup" in line


def test_without_a_launcher_horovod_is_not_imported(tmp_path):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text(
        "raise ImportError('no horovod here')"
    )
    # A format has no meaning there, not even one that Horovod might refuse.
    program = (
        "from hvd_imagenet import distributed;"
        "print(distributed.start(compression='bf16').world)"
    )
    finished = jobs.run(0, "-c", program, PYTHONPATH=str(tmp_path))
    assert "World(rank=0, size=1, local_rank=0" in finished.stdout


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, None),
        ({"HOROVOD_SIZE": "4"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "16"}, 16),
        ({"PMI_SIZE": "2"}, 2),
        # A shell inside an allocation is not a launched process.
        ({"SLURM_NTASKS": "8"}, None),
    ],
)
def test_launchers_are_known_by_their_environment(environ, size):
    assert launched_size(environ) == size


def test_one_gpu_per_local_rank():
    worlds = [World(rank=r, size=4, local_rank=r, local_size=4) for r in (0, 3)]
    assert [devices.choose_gpu(4, world) for world in worlds] == [0, 3]
    assert devices.choose_gpu(8, worlds[1]) == 3
    devices.require_gpu_each(8, worlds[1], ["0,1,2,3,4,5,6,7"] * 4)


def test_a_gpu_of_its_own_shown_to_every_rank():
    world = World(rank=3, size=4, local_rank=3, local_size=4)
    assert devices.choose_gpu(1, world) == 0
    devices.require_gpu_each(1, world, ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("count", "visible"),
    [
        (2, ["0,1"] * 4),
        (1, ["0"] * 4),
        (1, [""] * 4),
        (1, ["0", "1", "1", "2"]),
    ],
)
def test_fewer_gpus_than_local_ranks_is_an_error(count, visible):
    world = World(rank=1, size=4, local_rank=1, local_size=4)
    with pytest.raises(ValueError, match=rf"4 processes .* {count} GPU"):
        devices.require_gpu_each(count, world, visible)


@pytest.mark.horovod
def test_devices_are_set_before_the_first_exchange():
    # TensorFlow refuses to set them after it.
    program = _PROGRAMS / "pin_gpus.py"
    finished = jobs.run(2, str(program))
    for rank in range(2):
        assert f"rank {rank} has gpu:{rank} and 3 threads" in finished.stdout


@pytest.mark.parametrize(
    "place",
    [
        {"rank": 2, "size": 2},
        {"rank": -1, "size": 2},
        {"rank": 0, "size": 2, "local_rank": 1, "local_size": 1},
        {"rank": 0, "size": 2, "local_rank": 0, "local_size": 3},
    ],
)
def test_impossible_places_are_refused(place):
    with pytest.raises(ValueError, match="rank"):
        World(**place)


def test_secrets_do_not_reach_the_run_directory():
    described = environment.describe(
        {
            "HOROVOD_SECRET_KEY": "hush",
            "HOROVOD_CYCLE_TIME": "10",
            "HOME": "/root",
            "NCCL_SOCKET_IFNAME": "eth0",
        }
    )
    assert described == {
        "HOROVOD_CYCLE_TIME": "10",
        "NCCL_SOCKET_IFNAME": "eth0",
    }


@pytest.mark.horovod
def test_ranks_with_other_flags_are_named_before_work(tmp_path):
    program = (
        "import os, sys;"
        "sys.argv[1:] += ['--seed=' + os.environ['HOROVOD_RANK']];"
        "from hvd_imagenet import train; train.run()"
    )
    finished = jobs.run(
        2,
        "-c",
        program,
        *jobs.TINY,
        "--data_format=synthetic",
        "--train_images=64",
        "--validation_images=64",
        f"--workdir={tmp_path}",
        check=False,
    )
    assert finished.returncode != 0
    assert "error: seed is 1 on rank 1" in finished.stderr
    assert "0 on rank 0" in finished.stderr
    assert not (tmp_path / "metrics.jsonl").exists()
