"""--xla: what XLA compiles, and Horovod's exchanges between, in real jobs."""

from collections import Counter

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2

import jobs
from hvd_imagenet import clusters

# No operations of ours, which XLA does not know.
_XLA = (
    "--xla",
    "--batch_norm_kernel=tensorflow",
    "--convolution_kernel=tensorflow",
)
# Starts the program of its command line; each rank writes its graphs apart.
_DUMPING = """
import os, runpy, sys
os.environ["TF_DUMP_GRAPH_PREFIX"] += "/" + os.environ["HOROVOD_RANK"]
os.mkdir(os.environ["TF_DUMP_GRAPH_PREFIX"])
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.core
def test_what_the_user_set_wins():
    environ = {"TF_XLA_FLAGS": "--tf_xla_max_cluster_size=7"}
    clusters.set_limits(environ)
    assert environ["TF_XLA_FLAGS"].split() == [
        "--tf_xla_cpu_global_jit",
        f"--tf_xla_max_cluster_size={clusters.LARGEST}",
        "--tf_xla_max_cluster_size=7",
    ]
    environ = {}
    clusters.set_limits(environ)
    assert environ["TF_XLA_FLAGS"].split() == [
        "--tf_xla_cpu_global_jit",
        f"--tf_xla_max_cluster_size={clusters.LARGEST}",
    ]


def _sources(folder, flags):
    """How many of what two ranks exchange come from which cluster."""
    jobs.run(
        2,
        *("-c", _DUMPING, "hvd_imagenet.benchmark", *jobs.TINY, *_XLA),
        *("--model=resnet18", "--data_format=synthetic"),
        *("--batch_size_per_process=4", "--transport=horovod"),
        *("--steps=1", "--warmup_steps=1"),
        TF_DUMP_GRAPH_PREFIX=str(folder),
        TF_XLA_FLAGS=f"--tf_xla_clustering_debug {flags}",
    )
    found = []
    for path in (folder / "0").glob("mark_for_compilation_[0-9]*.pbtxt"):
        graph = text_format.Parse(path.read_text(), graph_pb2.GraphDef())
        cluster = {
            node.name: node.attr["_XlaCluster"].s.decode()
            for node in graph.node
        }
        exchanges = [n for n in graph.node if n.op == "HorovodAllreduce"]
        if exchanges:
            assert not any(cluster[node.name] for node in exchanges)
            found.append(
                Counter(
                    cluster[node.input[0].partition(":")[0]]
                    for node in exchanges
                )
            )
    (sources,) = found  # The step of the training.
    assert "" not in sources
    # 62 gradients of ResNet-18, and the signals of the ranks.
    assert sources.total() == 63
    return sources


@pytest.mark.horovod
def test_gradients_are_exchanged_while_clusters_are_left(tmp_path):
    sources = _sources(tmp_path, "")
    assert len(sources) >= 5
    assert max(sources.values()) < 63 / 3


@pytest.mark.slow
@pytest.mark.horovod
def test_clusters_can_be_as_large_as_they_get(tmp_path):
    sources = _sources(tmp_path, "--tf_xla_max_cluster_size=1000000")
    assert len(sources) == 1


@pytest.mark.horovod
def test_clusters_train_the_same(runs, patterns, tmp_path):
    finished = jobs.train(
        2,
        *jobs.RECIPE,
        *_XLA,
        f"--data_dir={patterns}",
        f"--workdir={tmp_path}",
        TF_CPP_MIN_LOG_LEVEL="0",
    )
    assert "Compiled cluster using XLA!" in finished.stderr
    without, within = (
        [m["loss"] for m in jobs.metrics(workdir)]
        for workdir in (runs[2], tmp_path)
    )
    np.testing.assert_allclose(within, without, rtol=1e-4)
    without, within = (jobs.result(workdir) for workdir in (runs[2], tmp_path))
    assert within["loss"] == pytest.approx(without["loss"], rel=1e-3)
