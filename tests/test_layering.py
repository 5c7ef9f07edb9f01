"""The code map: who may import whom, and what the package never contains."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

import hvd_imagenet

_FOLDER = pathlib.Path(hvd_imagenet.__file__).parent

# Layer of each module, and the third-party packages that it may import. A
# module imports lower numbers only; halves are layers within a layer.
_MODULES = {
    "__init__": (0, ""),
    "atomic_files": (0, ""),
    "environment": (0, ""),
    "imagenet": (0, ""),
    "knobs": (0, ""),
    "resnet_layers": (0, ""),
    "run_lock": (0, "absl.logging"),
    "schedule": (0, ""),
    "world": (0, ""),
    "config.data": (0.25, ""),
    "config.mlperf": (0.25, ""),
    "config.model": (0.25, ""),
    "config.optimization": (0.25, ""),
    "config.phases": (0.25, ""),
    "config.run": (0.25, ""),
    "config.schedule": (0.25, ""),
    "config.whole": (0.4, ""),
    "config.__init__": (0.5, ""),
    "checkpoint_files": (0.75, "numpy"),
    "evaluation_plan": (0.75, ""),
    "mapped_arrays": (0.75, "numpy"),
    "phases": (0.75, ""),
    #
    "devices": (1, ""),
    "data_report": (1, "numpy"),
    "flags": (1, "absl.flags"),
    "examples": (1, ""),
    "losses": (1, "tensorflow"),
    "image_ops": (1, "tensorflow"),
    "convolutions": (1, "keras tensorflow"),
    "normalization": (1, "keras tensorflow"),
    "order": (1, "numpy"),
    "parts": (1, "tensorflow"),
    "pace": (1.5, ""),
    "plan": (1, ""),
    "raw_images": (1, "numpy"),
    "framing": (0.5, "google_crc32c"),
    "retries": (0.75, "absl.logging"),
    "packed_sets": (0, ""),
    "record_streams": (1, "tensorflow"),
    "shard_names": (0.5, ""),
    "stream_order": (0, "numpy"),
    "stream_pool": (1.5, "numpy"),
    "streaming": (2, "numpy"),
    "stream_sources": (2.5, "absl.logging numpy tensorflow"),
    "tfrecords": (1, "numpy"),
    "flat_labels": (1.5, ""),
    "synsets": (1, "tensorflow_datasets"),
    "totals": (1.75, "numpy tensorflow"),
    "processes": (1.5, "keras numpy tensorflow"),
    "wire": (1, "keras tensorflow"),
    "decoding": (1.5, "tensorflow"),
    "kernels.__init__": (0, ""),
    "kernels.build": (0, "tensorflow"),
    "kernels.loading": (0.5, "tensorflow"),
    "kernels.batch_norm": (0.75, "tensorflow"),
    "kernels.shared_mean": (0.75, "tensorflow"),
    "kernels.processor": (0, ""),
    "kernels.winograd": (0.75, "tensorflow"),
    "kernels.amx": (0.75, "tensorflow"),
    "kernels.half": (0.75, "tensorflow"),
    "kernels.random_crop": (1.75, "PIL tensorflow"),
    "randaugment": (1.5, "tensorflow"),
    "tf_errors": (1.5, "tensorflow"),
    #
    "open_data": (3, ""),
    "first_rank": (2, ""),
    "shared_memory": (1.75, "tensorflow"),
    "horovod_processes": (1.9, "keras numpy tensorflow"),
    "clusters": (0, ""),
    "distributed": (2, "absl.logging horovod tensorflow"),
    "membership": (2.25, ""),
    "commits": (4, "keras numpy"),
    "elastic": (5.5, "absl.logging keras"),
    "ema": (2, "keras tensorflow"),
    "mixing": (2, "numpy tensorflow"),
    "optimizers": (2, "keras tensorflow"),
    "preprocessing": (2, "tensorflow"),
    "resnet": (2, "keras tensorflow"),
    "sources": (2, "PIL numpy"),
    "buffers": (0, "numpy"),
    "encoded_images": (2.2, "numpy tensorflow"),
    "reading": (2.25, "numpy tensorflow"),
    "inspection": (2.5, "PIL numpy tensorflow"),
    "pipeline": (2.5, "numpy tensorflow"),
    "batches": (2.75, "absl.logging tensorflow"),
    "lamb": (2.5, "keras tensorflow"),
    "lars": (2.5, "keras tensorflow"),
    "rmsprop_warmup": (2.5, "keras tensorflow"),
    "arrayrecords": (2, "array_record"),
    "tfds_sets": (2, "tensorflow_datasets"),
    "tfds_source": (2.25, "numpy tensorflow_datasets"),
    "label_offset": (2.5, "google numpy tensorflow"),
    "folders": (2, "numpy"),
    "splits": (2.75, ""),
    #
    "callbacks": (3, "keras numpy"),
    "dataset": (3, "numpy tensorflow"),
    "signals": (2, "keras numpy tensorflow"),
    "checkpoints": (1, "absl.logging numpy"),
    "attempts": (0, "absl.logging tensorflow"),
    "metrics_log": (1, ""),
    "tensorboard_log": (1, "numpy tensorboard tensorflow"),
    "restoring": (3, "keras numpy"),
    "runlog": (3, "absl.logging numpy tensorflow tqdm"),
    "evaluation": (2.9, "keras numpy tensorflow"),
    "trainer": (3, "keras tensorflow"),
    "training_loop": (3.5, "keras"),
    "stopping": (4, "keras tensorflow"),
    #
    "confusion": (3, "numpy"),
    "layer_norms": (4, "keras numpy tensorflow"),
    "mlperf_keys": (3, ""),
    "mlperf_log": (4, "absl.logging keras mlperf_logging psutil"),
    "monitors": (4, "keras numpy"),
    "pictures": (0, "PIL numpy"),
    "profiling": (0, "absl.logging keras tensorflow"),
    "progress": (4.5, "keras tqdm"),
    "seen_images": (4, "keras numpy tensorflow"),
    "replicas": (4, "keras numpy tensorflow"),
    "saving": (4, "absl.logging keras numpy tensorflow"),
    "split_checks": (4, ""),
    "update_rule": (4, "keras"),
    "timed_exchange": (2, "tensorflow"),
    "wire_choice": (3, "tensorflow"),
    #
    "resuming": (4.5, "keras"),
    "job": (5.25, "keras"),
    "job_start": (5, "keras"),
    #
    "supervision.__init__": (0, ""),
    "supervision.verdict": (0, ""),
    "supervision.lines": (0, ""),
    "supervision.center": (1, ""),
    "supervision.addresses": (2, ""),
    "supervision.member": (2, ""),
    "supervision.supervisor": (4, "absl.logging keras"),
    #
    "cluster.__init__": (0, ""),
    "cluster.finding": (0, ""),
    "cluster.foreground": (0, ""),
    "cluster.host_facts": (0, ""),
    "cluster.hosts": (0, ""),
    "cluster.options": (0.5, ""),
    "cluster.command": (1, ""),
    "cluster.comparison": (1, ""),
    "cluster.network": (1, "psutil"),
    "cluster.schedulers": (1, ""),
    "cluster.survey": (1, ""),
    "cluster.containers": (2, ""),
    "cluster.preflight": (2, ""),
    "cluster.launch_job": (5, ""),
    #
    "packing.__init__": (0, ""),
    "packing.options": (0.75, ""),
    "packing.farm": (1, ""),
    "packing.records": (3, "PIL google numpy tensorflow"),
    "packing.shards": (3.5, "google_crc32c numpy"),
    "packing.journal": (4, ""),
    "packing.manifest": (4, ""),
    "packing.job": (5, "numpy tqdm"),
    #
    "diagnosis.__init__": (0, ""),
    "diagnosis.links": (0, ""),
    "diagnosis.storage": (0, ""),
    "diagnosis.versions": (0, "packaging"),
    "diagnosis.options": (0.5, ""),
    "diagnosis.support": (0, ""),
    "diagnosis.units": (0, ""),
    "diagnosis.watch": (0, ""),
    "diagnosis.exchange": (2, ""),
    "diagnosis.files": (2, ""),
    "diagnosis.installation": (2, ""),
    "diagnosis.limits": (2, ""),
    "diagnosis.facts": (3, "tensorflow"),
    "diagnosis.measurement": (4.5, "numpy tensorflow"),
    "diagnosis.examination": (5, ""),
    #
    "check_data": (6, "tensorflow"),
    "measuring.__init__": (0, ""),
    "measuring.options": (0.5, ""),
    "measuring.memory": (0, "tensorflow"),
    "measuring.summary": (0, "numpy"),
    "measuring.flops": (1, "tensorflow"),
    "measuring.step_times": (4, ""),
    "measuring.training_report": (4.5, ""),
    "measuring.training_speed": (5, "keras tensorflow"),
    "measuring.exchange_speed": (5, "tensorflow"),
    "measuring.scaling_report": (1, ""),
    "measuring.scaling_picture": (2, "matplotlib"),
    "measuring.scaling_worlds": (1.5, ""),
    "measuring.scaling_runs": (5.5, ""),
    "measuring.input_cost": (4, "numpy tensorflow"),
    "measuring.input_speed": (5, ""),
    #
    "reporting.__init__": (0, ""),
    "reporting.metrics": (0, "numpy"),
    "reporting.naming": (0, ""),
    "reporting.styles": (0, ""),
    "reporting.options": (0.5, ""),
    "reporting.panels": (0.5, "numpy"),
    "reporting.drawing": (1, "matplotlib numpy"),
    "reporting.planned": (2, ""),
    "reporting.thinning": (2.5, "numpy"),
    "reporting.runs": (3, "numpy"),
    "reporting.curves": (4, "numpy"),
    "reporting.facts": (4, ""),
    "reporting.plan_curves": (4, "numpy"),
    "reporting.tables": (4, "numpy"),
    "reporting.worlds": (4, "numpy"),
    "reporting.page": (5, "jinja2"),
    "reporting.world_curves": (5, "numpy"),
    #
    "inference.__init__": (0, ""),
    "inference.options": (0.75, ""),
    "inference.crops": (1, "tensorflow"),
    "inference.predictor": (2.5, "keras tensorflow"),
    "inference.class_names": (3, ""),
    "inference.per_class": (3.5, "numpy"),
    "inference.trained": (3.5, "keras"),
    "inference.evaluating": (5, "tqdm"),
    "inference.evaluation_report": (5.5, ""),
    "inference.onnx_files": (3.5, "onnx tensorflow tf2onnx"),
    "inference.plain_keras": (3, "keras numpy"),
    "inference.serving": (3.5, "keras tensorflow"),
    "inference.image_files": (0, ""),
    "inference.predicting": (5, "numpy tensorflow"),
    "inference.exporting": (4, "absl.logging keras tensorflow"),
    #
    "scaling.__init__": (0, ""),
    "scaling.network": (0, ""),
    "scaling.measured": (0, ""),
    "scaling.plot": (0, "matplotlib"),
    "scaling.timeline": (0, ""),
    "scaling.backward": (0.5, ""),
    "scaling.collectives": (0.5, ""),
    "scaling.options": (0.75, ""),
    "scaling.prediction": (2, ""),
    "scaling.inputs": (2.5, ""),
    "scaling.report": (3, ""),
    #
    "benchmark": (6, ""),
    "doctor": (6, ""),
    "evaluate": (6, ""),
    "export": (6, ""),
    "launch": (6, "absl.app absl.flags"),
    "predict": (6, ""),
    "predict_scaling": (6, ""),
    "program": (5, "absl.app absl.flags"),
    "report": (6, "absl.app absl.flags"),
    "train": (6, ""),
}


def _modules() -> dict[str, ast.Module]:
    """Syntax tree by name of every module there is, in folders too."""
    trees = {}
    for path in sorted(_FOLDER.rglob("*.py")):
        name = ".".join(path.relative_to(_FOLDER).with_suffix("").parts)
        trees[name] = ast.parse(path.read_text(), filename=str(path))
    return trees


_TREES = _modules()


def _imports(tree: ast.Module) -> set[str]:
    """Everything imported anywhere in a module, within functions too.

    `from a import b` counts as a.b, whether b is a module or not.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _own(names: set[str]) -> set[str]:
    """The modules of the package among imported names."""
    own = set()
    for name in names:
        package, _, rest = name.partition(".")
        if package == "hvd_imagenet":
            # The longest beginning that is a module: a.b.c names c of a.b,
            # and a.c names c of the folder a.
            a, b, *_ = [*rest.split("."), "", ""]
            modules = (f"{a}.{b}", a, f"{a}.__init__", "__init__")
            own.add(next(m for m in modules if m in _TREES))
    return own


def _third_party(names: set[str]) -> set[str]:
    """The packages that are not Python's own; absl's modules one by one."""
    packages = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "absl":
            packages.add(".".join(parts[:2]))
        elif parts[0] != "hvd_imagenet":
            packages.add(parts[0])
    return packages - sys.stdlib_module_names


def test_every_module_has_a_layer():
    assert set(_TREES) == set(_MODULES)


@pytest.mark.parametrize("module", _TREES)
def test_modules_import_lower_layers_only(module):
    layer, _ = _MODULES[module]
    not_below = {
        other
        for other in _own(_imports(_TREES[module]))
        if _MODULES[other][0] >= layer
    }
    assert not_below == set()


@pytest.mark.parametrize("module", _TREES)
def test_third_party_packages_stay_where_they_belong(module):
    _, allowed = _MODULES[module]
    assert _third_party(_imports(_TREES[module])) <= set(allowed.split())


def test_the_examination_sees_what_it_is_for():
    # Else an empty answer above would prove nothing.
    tree = ast.parse(
        "import os\n"
        "import numpy as np\n"
        "import hvd_imagenet.world\n"
        "from absl import flags\n"
        "from hvd_imagenet import __version__, plan\n"
        "from hvd_imagenet.config import Config\n"
        "from hvd_imagenet.cluster import hosts\n"
        "from hvd_imagenet.cluster.survey import ask\n"
        "def function():\n"
        "    import horovod.tensorflow as hvd\n"
        "    from hvd_imagenet.trainer import Trainer\n"
    )
    names = _imports(tree)
    assert _own(names) == {
        "__init__",
        "cluster.hosts",
        "cluster.survey",
        "config.__init__",
        "plan",
        "trainer",
        "world",
    }
    assert _third_party(names) == {"absl.flags", "horovod", "numpy"}


def test_one_module_knows_horovod():
    # The reason for `distributed`, so not left to the table alone.
    users = {
        name
        for name, tree in _TREES.items()
        if "horovod" in _third_party(_imports(tree))
    }
    assert users == {"distributed"}


def test_flags_are_read_by_programs_only():
    # Below a `main`, functions take a frozen config or plain values.
    users = {
        name
        for name, tree in _TREES.items()
        if _third_party(_imports(tree)) & {"absl.flags", "absl.app"}
    }
    assert "flags" in users
    assert {name for name in users if _MODULES[name][0] < 5} <= {
        "flags",
        "runlog",
    }


def test_no_module_is_named_utils():
    # Such a module belongs to no layer and ends up with everything.
    names = {part for module in _TREES for part in module.split(".")}
    assert names & {"utils", "util", "helpers", "common", "misc"} == set()


@pytest.mark.parametrize("module", _TREES)
def test_no_assert_and_no_print(module):
    # python -O removes asserts, and print is by rank 0 or a log only.
    found = [
        f"line {node.lineno}"
        for node in ast.walk(_TREES[module])
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Name) and node.id == "print")
    ]
    assert found == []


def test_plans_are_made_without_tensorflow():
    # --help and --dry_run answer at once, on a machine without Horovod too.
    program = (
        "import json, sys\n"
        "from hvd_imagenet import config, train\n"
        "plan = json.loads(train.dry_run(config.Config()))\n"
        "heavy = {'tensorflow', 'keras', 'horovod'} & sys.modules.keys()\n"
        "print(json.dumps([plan['train_images'], sorted(heavy)]))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == [1_281_167, []]
