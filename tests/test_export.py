"""What is exported answers as the run does, where nothing of ours is."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import faults
import jobs
import used_run
from hvd_imagenet import dataset, evaluation, export, resnet
from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.config import ModelConfig
from hvd_imagenet.evaluation_plan import make_evaluation_plan
from hvd_imagenet.inference import exporting, plain_keras, trained
from hvd_imagenet.inference.options import ExportOptions, ModelOptions
from hvd_imagenet.inference.predictor import Predictor
from hvd_imagenet.processes import Processes
from hvd_imagenet.splits import open_split

# Between kernels of TensorFlow that sum in another order.
_TOLERANCE = 1e-5
_EXAMPLES = 51

# Who serves has no package of ours.
_ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hvd_imagenet":
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import json
import numpy as np
import tensorflow as tf

folder, inputs, outputs = sys.argv[1:]
with np.load(inputs) as file:
    images, paths = file["images"], file["paths"]
signatures = tf.saved_model.load(f"{folder}/saved_model").signatures
files = tf.constant([open(path, "rb").read() for path in paths])
found = signatures["serving_default"](image_bytes=files)
answers = {f"bytes_{name}": value.numpy() for name, value in found.items()}
for name, dtype in (("images", tf.uint8), ("float_images", tf.float32)):
    found = signatures[name](images=tf.cast(images, dtype))
    answers[name] = found["probabilities"].numpy()
answers["bytes_top_names"] = answers["bytes_top_names"].astype(bytes)
import keras
model = keras.saving.load_model(f"{folder}/model.keras")
answers["keras"] = model.predict(images, verbose=0)
np.savez(outputs, **answers)
assert not [name for name in sys.modules if name.startswith("hvd_imagenet")]
"""


class Expected:
    """What the run says of its validation images.

    Attributes:
        paths: of the images.
        images: [images, side, side, 3] uint8, prepared.
        probabilities: [images, classes] float32.
        answers: of the evaluation.
    """

    def __init__(self, run):
        found, model = trained.load(
            ModelOptions(checkpoint=str(run)), Processes()
        )
        config = found.config
        source = open_split(config, "validation")
        self.paths = [source.where(index) for index in range(len(source))]
        plan = make_evaluation_plan(
            config, world_size=1, validation_images=len(source)
        )

        def batches():
            return dataset.evaluation_batches(
                config, plan, source, Processes().world, threads=2
            )

        taken = [
            (batch.images, batch.weights.numpy() > 0)
            for batch, _ in zip(
                batches(), range(plan.evaluation_steps), strict=False
            )
        ]
        self.images = np.concatenate([i.numpy()[w] for i, w in taken])
        predictor = Predictor(model, flip=config.data.evaluation_flip)
        self.probabilities = tf.nn.softmax(predictor(self.images)).numpy()
        evaluator = evaluation.Evaluator(
            model, Processes(), flip=config.data.evaluation_flip
        )
        self.answers = evaluator.evaluate(
            batches(), steps=plan.evaluation_steps, examples=len(source)
        ).answers


@pytest.fixture(scope="module")
def expected(used_run_dir):
    return Expected(used_run_dir)


@pytest.fixture(scope="module")
def alone(exported, expected, tmp_path_factory):
    """What a process without this package gets from the folder."""
    folder = tmp_path_factory.mktemp("alone")
    np.savez(
        folder / "inputs.npz", images=expected.images, paths=expected.paths
    )
    outputs = folder / "outputs.npz"
    environment = {
        name: value
        for name, value in jobs.environment().items()
        if not name.startswith("PYTHON")
    }
    finished = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            _ALONE,
            str(exported),
            str(folder / "inputs.npz"),
            str(outputs),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=jobs.TIMEOUT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    with np.load(outputs) as file:
        return dict(file)


@pytest.mark.parametrize(
    "name", ["bytes_probabilities", "images", "float_images", "keras"]
)
def test_others_find_what_the_evaluation_finds(alone, expected, name):
    found = alone[name]
    assert len(found) == _EXAMPLES
    assert np.abs(found - expected.probabilities).max() < _TOLERANCE
    assert found.argmax(axis=1).tolist() == expected.answers.predicted.tolist()


def test_the_most_probable_classes_have_names(alone, expected):
    top = alone["bytes_top_classes"]
    assert top[:, 0].tolist() == expected.answers.predicted.tolist()
    in_order = np.take_along_axis(alone["bytes_probabilities"], top, axis=1)
    assert (in_order == alone["bytes_top_probabilities"]).all()
    assert (np.diff(in_order, axis=1) <= 0).all()
    words = {0: " tench, Tinca tinca", 1: " goldfish"}
    names = [f"{n}{words.get(i, '')}" for i, n in enumerate(used_run.CLASSES)]
    for row, found in zip(top, alone["bytes_top_names"], strict=True):
        assert [name.decode() for name in found] == [names[i] for i in row]


def test_what_was_exported_is_said(exported, used_run_dir):
    facts = json.loads((exported / "export.json").read_text())
    assert facts["result_of_run"] == jobs.result(used_run_dir)
    assert facts["weights"] == "average"
    assert facts["step"] == 16
    assert facts["evaluation_resize"] == 37
    assert facts["recipe"]["ema_decay"] == 0.5
    assert "--ema_decay=0.5" in facts["command"]
    assert [each["id"] for each in facts["classes"]] == list(used_run.CLASSES)
    assert sorted(path.name for path in exported.parent.iterdir()) == ["out"]


def test_a_result_of_other_weights_is_not_said(used_run_dir, tmp_path):
    steps = sorted(used_run_dir.glob("checkpoints/*.npz"))
    for options in ({"checkpoint": steps[0]}, {"weights": "last"}):
        options = {
            name: str(value)
            for name, value in ({"checkpoint": used_run_dir} | options).items()
        }
        prepared = exporting.prepare(
            ExportOptions(output_dir=str(tmp_path / "out"), **options)
        )
        assert exporting._facts(prepared)["result_of_run"] is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_plain_layers_do_the_same(precision):
    config = ModelConfig(
        model="resnet18", num_classes=7, blur_pool=True, precision=precision
    )
    keras.utils.set_random_seed(0)
    model = resnet.build_model(config)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        # Running statistics and gammas that are not where they began.
        shift = generator.uniform(0.1, 0.5, variable.shape)
        variable.assign(variable.numpy() + shift * (variable.ndim == 1))
    plain = plain_keras.plain_model(model, flip=True)
    images = generator.integers(0, 256, (3, 40, 48, 3)).astype(np.float32)
    expected = tf.nn.softmax(Predictor(model, flip=True)(images)).numpy()
    found = plain(images).numpy()
    tolerance = _TOLERANCE if precision == "float32" else 0.02
    assert np.abs(found - expected).max() < tolerance
    assert expected.max() - expected.min() > 0.05
    own = {layer.__module__ for layer in plain.layers[1:]} | {
        layer.__module__ for layer in plain.get_layer("resnet18").layers
    }
    assert all(module.startswith("keras.") for module in own)


def _refused(capsys, *argv):
    options = _options(*argv)
    assert export.main(options) == 1
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err


def _options(checkpoint, output_dir, **others):
    return ExportOptions(
        checkpoint=str(checkpoint), output_dir=str(output_dir), **others
    )


def test_nothing_is_overwritten(used_run_dir, exported, tmp_path, capsys):
    before = (exported / "export.json").stat()
    said = _refused(capsys, used_run_dir, exported)
    assert f"error: --output_dir={exported} is there already" in said
    assert (exported / "export.json").stat() == before
    # Nor what came between.
    prepared = exporting.prepare(_options(used_run_dir, tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(NotWrittenError, match="renaming"):
        exporting.write(prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_wrong_is_said_first(tmp_path, capsys):
    said = _refused(capsys, tmp_path, tmp_path / "out")
    assert "has no checkpoints/step_*.npz" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["8m", "28m"])  # In the first or second file.
def test_a_full_disk_leaves_nothing(used_run_dir, tmp_path, size, capsys):
    with faults.small_disk(tmp_path / "disk", size) as disk:
        said = _refused(capsys, used_run_dir, disk / "out")
        assert f"error: {disk}/out could not be written: writing" in said
        assert list(disk.iterdir()) == []


def test_onnx_without_its_packages_is_refused(used_run_dir, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tf2onnx", None)
        with pytest.raises(ValueError, match="install them by pip install"):
            exporting.prepare(
                _options(used_run_dir, tmp_path / "out", onnx=True)
            )


@pytest.mark.slow
def test_onnx_runs_elsewhere(used_run_dir, expected, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    folder = tmp_path / "out"
    exporting.write(
        exporting.prepare(_options(used_run_dir, folder, onnx=True))
    )
    session = runtime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(
        ["probabilities"], {"images": expected.images.astype(np.float32)}
    )
    assert np.abs(found - expected.probabilities).max() < _TOLERANCE
    assert found.argmax(axis=1).tolist() == expected.answers.predicted.tolist()
    (only,) = session.get_inputs()
    assert only.shape == ["batch", 32, 32, 3]
    classes = session.get_modelmeta().custom_metadata_map["classes"]
    assert json.loads(classes)[2:] == list(used_run.CLASSES[2:])
