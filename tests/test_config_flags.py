"""Knobs and their flags: names, limits, flagfiles, round trip and recipes."""

import collections
import dataclasses
import pathlib
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from hvd_imagenet import flags, imagenet
from hvd_imagenet.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
    RunConfig,
    ScheduleConfig,
    require_same,
)
from hvd_imagenet.knobs import value_text
from hvd_imagenet.plan import make_plan

_FOLDER = pathlib.Path(__file__).parent.parent / "flags"
_RECIPES = sorted([*_FOLDER.glob("*.flags"), *_FOLDER.glob("small/*.flags")])
_KNOBS = [
    field for group in Config().groups() for field in dataclasses.fields(group)
]


def _name(recipe: pathlib.Path) -> str:
    return str(recipe.relative_to(_FOLDER).with_suffix(""))


def _defined() -> absl_flags.FlagValues:
    values = absl_flags.FlagValues()
    flags.define(values)
    return values


def _parse(*arguments) -> Config:
    return flags.parse(["train", *arguments], _defined())


def _values(config: Config) -> dict:
    """Value by name of every knob."""
    return {
        name: value
        for group in config.groups()
        for name, value in dataclasses.asdict(group).items()
    }


def _changed(**knobs) -> Config:
    """The default with some knobs at other values."""
    groups = {}
    for field in dataclasses.fields(Config):
        names = {knob.name for knob in dataclasses.fields(field.type)}
        groups[field.name] = field.type(
            **{name: knobs[name] for name in names & knobs.keys()}
        )
    return Config(**groups)


@pytest.fixture
def flagfile(tmp_path):
    """Writes a flagfile and returns the flag that reads it."""

    def write(text: str) -> str:
        path = tmp_path / "test.flags"
        path.write_text(text)
        return f"--flagfile={path}"

    return write


# --- Names and help. ---


def test_flag_names_are_unique_across_groups():
    names = collections.Counter(field.name for field in _KNOBS)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_knob_is_a_flag():
    assert {field.name for field in _KNOBS} <= set(_defined())


# Launch scripts and flagfiles outside this repository have these.
@pytest.mark.parametrize(
    "name",
    [
        "batch_size_per_process",
        "check_replicas_steps",
        "checkpoint_steps",
        "compression",
        "data_dir",
        "data_format",
        "dry_run",
        "epochs",
        "global_batch_size",
        "image_size",
        "model",
        "num_classes",
        "precision",
        "seed",
        "workdir",
        "world_size",
    ],
)
def test_names_that_scripts_rely_on(name):
    assert name in _defined()


@pytest.mark.parametrize("field", _KNOBS, ids=lambda field: field.name)
def test_every_knob_has_help(field):
    text = field.metadata["knob"].help
    assert len(text) > 10
    # Whole sentences, which `--help` goes on after.
    assert text[0].isupper() or text.startswith("lambda")
    assert text.endswith(".")
    assert text == " ".join(text.split())
    assert text in _defined()[field.name].help


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("image_size", "[in pixels; 8 to 2,048; part of the recipe]"),
        ("epochs", "[in epochs; at least 1; part of the recipe]"),
        ("momentum", "[0 to 0.99999; part of the recipe]"),
        ("nesterov", "[part of the recipe]"),
        ("log_steps", "[in steps; at least 1; site's own]"),
    ],
)
def test_help_says_unit_limits_and_whose_knob_it_is(name, facts):
    assert _defined()[name].help.endswith(facts)


def test_defaults_of_flags_are_those_of_the_config():
    assert _parse() == Config()


# A knob on the wrong side is stated by no recipe, or stops a run from being
# resumed with other paths.
def test_which_knobs_belong_to_the_recipe():
    recipe = Config().recipe()
    for name in ("model", "precision", "compression", "seed", "epochs"):
        assert name in recipe
    for name in ("data_dir", "workdir", "input_threads", "checkpoint_steps"):
        assert name not in recipe


# --- Limits. ---


@pytest.mark.parametrize(
    ("argument", "limit"),
    [
        ("--epochs=0", "at least 1 epochs"),
        ("--epochs=-3", "at least 1 epochs"),
        ("--image_size=7", "at least 8 pixels"),
        ("--image_size=2049", "at most 2,048 pixels"),
        ("--num_classes=1", "at least 2 classes"),
        ("--num_classes=100001", "at most 100,000 classes"),
        ("--global_batch_size=0", "at least 1 images"),
        ("--batch_size_per_process=0", "at least 1 images"),
        ("--base_learning_rate=-0.1", "at least 0"),
        ("--momentum=1.0", "at most 0.99999"),
        ("--crop_area_max=1.5", "at most 1"),
        ("--label_offset=2", "at most 1"),
        ("--randaugment_layers=0", "at least 1 operations"),
        ("--randaugment_layers=11", "at most 10 operations"),
        ("--randaugment_magnitude=-1", "at least 0"),
        ("--randaugment_magnitude=10.5", "at most 10"),
        ("--randaugment_magnitude_std=-0.5", "at least 0"),
        ("--checkpoint_steps=-1", "at least 0 steps"),
        ("--seed=-1", "at least 0"),
        ("--seed=2147483648", "at most"),
        # Every element of a tuple.
        ("--decay_epochs=30,-1", "at least 0 epochs"),
        ("--weight_decay=nan", "finite"),
        ("--weight_decay=inf", "finite"),
        ("--decay_epochs=30,inf", "finite"),
        ("--model=resnet51", "resnet50"),
        ("--precision=fp16", "float16"),
        ("--compression=float16", "fp16"),
        ("--data_format=tfrecords", "tfrecord"),
        ("--warmup=linear", "gradual"),
        ("--epochs=1.5", "int"),
        ("--decay_epochs=30,later", "numbers between commas"),
    ],
)
def test_a_value_outside_its_limits_is_refused(argument, limit):
    with pytest.raises(absl_flags.Error) as caught:
        _parse(argument)
    # What was said, and what can be said instead.
    assert argument.split("=")[1] in str(caught.value)
    assert limit in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        "--image_size=8",
        "--image_size=2048",
        "--num_classes=2",
        "--momentum=0",
        "--momentum=0.99999",
        "--seed=2147483647",
        "--decay_epochs=0",
        "--decay_epochs=",
        "--warmup_epochs=90",
        "--crop_area_min=1.0",
        "--evaluation_resize=224",
    ],
)
def test_limits_themselves_are_allowed(argument):
    config = _parse(argument)
    name, said = argument.removeprefix("--").split("=")
    value = _values(config)[name]
    if isinstance(value, tuple):
        assert list(value) == [float(v) for v in said.split(",") if v]
    else:
        assert value == float(said)


# The library part has no flags before it.
@pytest.mark.parametrize(
    ("group", "knobs", "message"),
    [
        (OptimizationConfig, {"epochs": 0}, "--epochs=0 must be at least 1"),
        (OptimizationConfig, {"epochs": 1.0}, "--epochs=1.0 must be of .* int"),
        (OptimizationConfig, {"epochs": True}, "--epochs=true must be of .*"),
        (OptimizationConfig, {"epochs": None}, "--epochs=None must be of"),
        (OptimizationConfig, {"momentum": "0.9"}, "must be of type float"),
        (OptimizationConfig, {"nesterov": 1}, "must be of type bool"),
        (ScheduleConfig, {"decay_epochs": (30.0, -1.0)}, "=30,-1 must be"),
        (ModelConfig, {"precision": "fp8"}, "=fp8 .*float32, bfloat16, float"),
        (DataConfig, {"label_offset": 2}, "--label_offset=2 must be at most 1"),
        (RunConfig, {"workdir": 3}, "--workdir=3 must be of type str"),
    ],
)
def test_a_group_checks_its_own_values(group, knobs, message):
    with pytest.raises(ValueError, match=message):
        group(**knobs)


# Two values that do not fit together: both are named.
@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        (
            {"crop_area_min": 0.5, "crop_area_max": 0.4},
            ("--crop_area_min=0.5", "--crop_area_max=0.4"),
        ),
        (
            {"crop_aspect_min": 2.0, "crop_aspect_max": 1.5},
            ("--crop_aspect_min=2.0", "--crop_aspect_max=1.5"),
        ),
        (
            {"image_size": 288, "evaluation_resize": 256},
            ("--evaluation_resize=256", "288 pixels"),
        ),
        ({"phase_image_sizes": (64,)}, ("--phase_epochs= and", "together")),
        ({"phase_epochs": (5.0,)}, ("--phase_epochs=5 and", "together")),
        (
            {"phase_epochs": (5.0, 6.0), "phase_image_sizes": (64,)},
            ("--phase_epochs=5,6", "--phase_image_sizes=64", "same number"),
        ),
        (
            {"phase_epochs": (6.0, 5.0), "phase_image_sizes": (64, 96)},
            ("--phase_epochs=6,5", "rise"),
        ),
        (
            {"phase_epochs": (90.0,), "phase_image_sizes": (64,)},
            ("--phase_epochs has 90", "--epochs=90"),
        ),
        (
            {
                "phase_epochs": (9.0,),
                "phase_crop_area_min": (0.5,),
                "crop_area_max": 0.4,
            },
            ("--phase_crop_area_min=0.5", "--crop_area_max=0.4"),
        ),
        (
            {
                "phase_epochs": (9.0,),
                "phase_image_sizes": (288,),
                "evaluation_resize": 256,
            },
            ("--evaluation_resize=256", "288 pixels"),
        ),
        ({"decay_epochs": (30.0, 20.0)}, ("--decay_epochs=30,20", "rise")),
        ({"decay_epochs": (30.0, 30.0)}, ("--decay_epochs=30,30", "rise")),
        (
            {"epochs": 4, "warmup_epochs": 5.0},
            ("--warmup_epochs=5.0", "--epochs=4"),
        ),
        (
            {
                "loss": "bce",
                "bce_target_threshold": 0.005,
                "label_smoothing": 0.1,
                "num_classes": 10,
            },
            ("--bce_target_threshold=0.005", "0.01", "--label_smoothing=0.1"),
        ),
        (
            {"loss": "bce", "bce_target_threshold": 1.0},
            ("--bce_target_threshold=1.0", "--label_smoothing=0.0"),
        ),
        (
            {"randaugment_layers": 2, "randaugment_magnitude": 6.0},
            (
                "--randaugment_layers=2",
                "--randaugment_magnitude=6.0",
                "without --randaugment_magnitude_std:",
            ),
        ),
        (
            {"randaugment_magnitude": 0.0},
            ("--randaugment_magnitude=0.0 without --randaugment_layers,",),
        ),
        ({"world_size": 4}, ("--world_size=4", "--dry_run", "horovodrun")),
    ],
)
def test_values_that_do_not_fit_together_are_refused(knobs, named):
    with pytest.raises(ValueError) as caught:
        _changed(**knobs)
    assert all(part in str(caught.value) for part in named)

    # And as the error of a flag on the command line.
    arguments = [f"--{k}={value_text(v)}" for k, v in knobs.items()]
    with pytest.raises(absl_flags.IllegalFlagValueError) as caught:
        _parse(*arguments)
    assert all(part in str(caught.value) for part in named)


# --- To text and back. ---

# No knob at its default, so that one that gets lost is seen.
_OTHER = {
    "model": "resnet18",
    "num_classes": 10,
    "image_size": 64,
    "zero_gamma": False,
    "blur_pool": True,
    "batch_norm_momentum": 1 / 3,
    "batch_norm_epsilon": 1.5e-07,
    "batch_norm_kernel": "tensorflow",
    "convolution_kernel": "tensorflow",
    "xla": True,
    "bn_statistics": "rank0",
    "precision": "bfloat16",
    "data_dir": "/data/ImageNet 2012/#1=a",
    "data_format": "folder",
    "tfds_name": "imagenet_v2/matched-frequency:3.0.0",
    "tfds_train_split": "train[:95%]",
    "tfds_validation_split": "train[95%:]",
    "train_images": 1_437,
    "validation_images": 360,
    "validation_labels": "/data/labels.txt",
    "label_offset": 0,
    "on_corrupt": "skip",
    "shuffle": "buffered",
    "shuffle_buffer_size": 999,
    "crop_area_min": 0.1,
    "crop_area_max": 0.9,
    "crop_aspect_min": 2 / 3,
    "crop_aspect_max": 3 / 2,
    "horizontal_flip": False,
    "evaluation_flip": True,
    "evaluation_image_size": 72,
    "randaugment_layers": 3,
    "randaugment_magnitude": 2 / 3,
    "randaugment_magnitude_std": 0.25,
    "evaluation_resize": 73,
    "interpolation": "bicubic",
    "dct_method": "accurate",
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "input_kernel": "tensorflow",
    "input_threads": 3,
    "layer_norm_steps": 7,
    "profile_steps": (5, 9),
    "epochs": 1_000_001,
    "global_batch_size": 8192,
    "batch_size_per_process": 16,
    "base_learning_rate": 0.1 + 0.2,
    "base_batch_size": 1024,
    "warmup": "constant",
    "warmup_epochs": 2.5,
    "warmup_learning_rate": 0.0,
    "schedule": "cosine",
    "decay_epochs": (1 / 3, 30.5, 1_234_567.5),
    "decay_factor": 0.2,
    "polynomial_power": 1.5,
    "end_learning_rate": 1e-4,
    "piecewise_epochs": (0.0, 2.5, 2.5),
    "piecewise_shares": (1e-4, 1.0, 0.5),
    "optimizer": "lars",
    "lars_coefficient": 0.002,
    "rmsprop_learning_rate": 1e-3,
    "rmsprop_center_epochs": 7.5,
    "rmsprop_period_epochs": 2.5,
    "rmsprop_slope": "printed",
    "lamb_beta_1": 0.95,
    "lamb_beta_2": 0.99,
    "lamb_epsilon": 1e-8,
    "momentum": 0.95,
    "nesterov": False,
    "weight_decay": 5e-05,
    "clip_global_norm": 1.5,
    "ema_decay": 0.999,
    "loss": "bce",
    "label_smoothing": 0.1,
    "bce_target_threshold": 0.2,
    "compression": "fp16",
    "transport": "horovod",
    "phase_epochs": (1 / 3, 30.5),
    "phase_image_sizes": (128, 2_048),
    "phase_crop_area_min": (0.25, 1 / 3),
    "phase_global_batch_sizes": (8192, 1_000_000),
    "phase_batch_sizes_per_process": (64, 1),
    "seed": 2**31 - 1,
    "workdir": "/runs/1",
    "init_from": "/runs/0",
    "evaluation_every_epochs": 2,
    "evaluation_batch_size_per_process": 50,
    "check_replicas_steps": 7,
    "checkpoint_steps": 500,
    "elastic": True,
    "commit_steps": 7,
    "keep_checkpoints": 1,
    "log_steps": 7,
    "stall_timeout_seconds": 0.5,
    "dry_run": True,
    "world_size": 256,
    "mlperf_log": True,
    "submission_org": "Example Laboratory",
    "submission_platform": "2 x 8 GPUs",
    "submission_division": "closed",
    "submission_status": "onprem",
}


def test_the_other_values_are_of_every_knob():
    default = _values(Config())
    assert _OTHER.keys() == default.keys()
    assert [name for name in default if default[name] == _OTHER[name]] == []


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        _OTHER,
        {"decay_epochs": ()},
        {"decay_epochs": (30.0,), "workdir": "/runs/2"},
    ],
    ids=["default", "all", "empty tuple", "workdir"],
)
def test_text_repeats_the_config_in_any_work_directory(knobs, flagfile):
    config = _changed(**knobs)
    text = flags.to_text(config)
    assert "workdir" not in text
    elsewhere = dataclasses.replace(
        config, run=dataclasses.replace(config.run, workdir=None)
    )
    assert _parse(flagfile(text)) == elsewhere


def test_text_leaves_out_what_is_none():
    text = flags.to_text(Config())
    assert "None" not in text
    assert "--evaluation_resize" not in text
    assert "--horizontal_flip=true\n" in text
    assert "--decay_epochs=30,60,80\n" in text


# --- The command line and flagfiles. ---


def test_later_flags_win(flagfile):
    file = flagfile("--epochs=7\n--seed=1\n--seed=2\n")
    assert _parse(file).optimization.epochs == 7
    assert _parse(file, "--epochs=8").optimization.epochs == 8
    assert _parse("--epochs=8", file).optimization.epochs == 7
    assert _parse(file).run.seed == 2


def test_flagfile_with_comments_and_empty_lines(flagfile):
    config = _parse(
        flagfile("# --epochs=7\n\n   \n--seed=3\n#\n--nonesterov\n")
    )
    assert config == _changed(seed=3, nesterov=False)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("epochs=7", "'epochs=7' is no flag"),
        ("  # a comment that is indented", "'# a comment that is indented'"),
        ("train", "'train' is no flag"),
        ("--epoch=7", "epoch"),
        ("--epochs 7", "epochs 7"),
        ("--epochs=7 # a comment behind a value", "7 # a comment"),
        ("--flagfile=/none/inner.flags", "/none/inner.flags"),
    ],
)
def test_a_line_that_is_no_flag_is_named(line, named, flagfile):
    # Among good ones, which do not hide it.
    file = flagfile(f"--seed=1\n{line}\n--seed=2\n")
    with pytest.raises(absl_flags.Error) as caught:
        _parse(file)
    assert named in str(caught.value)


@pytest.mark.parametrize("arguments", [["7"], ["--", "7"], ["--seed=1", "7"]])
def test_a_positional_argument_is_refused(arguments):
    with pytest.raises(absl_flags.Error, match=r"'7' is no flag"):
        _parse(*arguments)


def test_an_unknown_flag_is_refused():
    with pytest.raises(absl_flags.Error, match=r"batch_size\b"):
        _parse("--batch_size=32")


def test_a_missing_flagfile_is_named(tmp_path):
    missing = tmp_path / "missing.flags"
    with pytest.raises(absl_flags.Error, match=r"missing\.flags"):
        _parse(f"--flagfile={missing}")


def test_a_flagfile_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "binary.flags"
    path.write_bytes(b"--data_dir=\xff\xfe\n")
    with pytest.raises(absl_flags.Error, match=r"--flagfile cannot be read"):
        _parse(f"--flagfile={path}")


def test_two_sets_of_flags_do_not_touch():
    first, second = _defined(), _defined()
    config = flags.parse(["train", "--epochs=7"], first)
    assert config.optimization.epochs == 7
    assert flags.parse(["train"], second) == Config()


# --- Recipes. ---


def test_there_are_recipes():
    assert {"goyal2017", "quickstart", "small/goyal2017"} <= set(
        map(_name, _RECIPES)
    )


@pytest.mark.parametrize("path", _RECIPES, ids=_name)
def test_a_recipe_states_every_knob_of_the_recipe_and_no_other(path):
    config = _parse(f"--flagfile={path}")
    stated = collections.Counter(
        line.removeprefix("--").split("=")[0]
        for line in path.read_text().splitlines()
        if line.startswith("--")
    )
    assert set(stated.values()) == {1}
    recipe = config.recipe()
    # So that a changed default cannot change a recipe.
    needed = {name for name, value in recipe.items() if value is not None}
    assert needed <= stated.keys()
    # What belongs to the site is said where the recipe is run.
    assert stated.keys() <= recipe.keys()


@pytest.mark.parametrize("path", _RECIPES, ids=_name)
def test_a_recipe_can_be_planned_on_one_process(path):
    config = _parse(f"--flagfile={path}")
    plan = make_plan(
        config,
        world_size=1,
        train_images=imagenet.TRAIN_IMAGES,
        validation_images=imagenet.VALIDATION_IMAGES,
    )
    # A recipe does not depend on the world.
    assert (
        plan.phase(0).global_batch_size == config.optimization.global_batch_size
    )


# --- Resuming with the same recipe. ---


def test_the_same_recipe_is_accepted():
    # Saved as JSON, where a tuple is a list.
    saved = Config().recipe() | {"decay_epochs": [30.0, 60.0, 80.0]}
    require_same(saved, Config().recipe(), "RUN")


def test_every_difference_of_recipes_is_listed():
    saved = _changed(epochs=90, momentum=0.8).recipe()
    saved["forgotten"] = 1
    asked = _changed(epochs=91, decay_epochs=(30.0,)).recipe()
    with pytest.raises(ValueError) as caught:
        require_same(saved, asked, "RUN")
    message = str(caught.value)
    first, *differences, last = message.splitlines()
    assert first == "RUN is of another recipe:"
    assert differences == [
        "  decay_epochs was 30,60,80 and is 30 now",
        "  epochs was 90 and is 91 now",
        "  forgotten was 1 and is not set now",
        "  momentum was 0.8 and is 0.9 now",
    ]
    assert "--workdir" in last and "--init_from" in last


def test_help_may_be_read_in_part():
    program = f"{sys.executable} -m hvd_imagenet.train --help | head -n 1"
    finished = subprocess.run(
        ["bash", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.stdout.startswith("Trains a network")
    assert finished.stderr == ""
