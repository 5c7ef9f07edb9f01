"""The manifests of docker/: by their schemas, and one with the other."""

import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request

import jsonschema
import pytest
import yaml

import jobs

_REPOSITORY = pathlib.Path(__file__).parent.parent
_DOCKER = _REPOSITORY / "docker"
_PORT = 12345

# By commit or tag and by content; neither is in this repository.
_SCHEMAS = {
    "compose-spec.json": (
        "https://raw.githubusercontent.com/compose-spec/compose-spec/"
        "170098ba07d9f53c383a41bfd4c5166b0a4529a6/schema/compose-spec.json",
        "1f91e091f16b2dd50ab8860e02bb391d22df553d91c145eacedb1b6eff9c3f0e",
    ),
    "kubeflow.org_mpijobs.yaml": (
        "https://raw.githubusercontent.com/kubeflow/mpi-operator/v0.8.0/"
        "manifests/base/kubeflow.org_mpijobs.yaml",
        "78b0131f931fcc8d99f6ce0407281f41b62527e443ec691d26d9634b390ad3bb",
    ),
}


def _read(name):
    return yaml.safe_load((_DOCKER / name).read_text())


def _with_defaults(text):
    """A text of a compose file with its variables at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def _plan(command, world_size):
    """The plan of a command line of horovodrun in the image."""
    training = command[command.index("hvd_imagenet.train") + 1 :]
    finished = jobs.run(
        0,
        *("-m", "hvd_imagenet.train"),
        *(
            flag.replace("/opt/hvd_imagenet", str(_REPOSITORY))
            for flag in training
            # Not here; without it ImageNet's size is planned with.
            if flag != "--data_dir=/data"
        ),
        *("--dry_run", f"--world_size={world_size}"),
    )
    return json.loads(finished.stdout)


def test_the_dockerfile_is_clean():
    hadolint = pathlib.Path(sys.executable).parent / "hadolint"
    finished = subprocess.run(
        [hadolint, _DOCKER / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_all_know_the_port():
    for name in ("sshd_config", "ssh_config"):
        assert re.search(
            rf"^ *Port {_PORT}$", (_DOCKER / name).read_text(), re.M
        )
    assert f"EXPOSE {_PORT}\n" in (_DOCKER / "Dockerfile").read_text()
    assert (
        f"-p {_PORT} " in _read("compose.yaml")["services"]["host1"]["command"]
    )
    specs = _read("mpijob.yaml")["spec"]["mpiReplicaSpecs"]
    (launcher,) = specs["Launcher"]["template"]["spec"]["containers"]
    (worker,) = specs["Worker"]["template"]["spec"]["containers"]
    assert launcher["args"][launcher["args"].index("-p") + 1] == str(_PORT)
    assert [port["containerPort"] for port in worker["ports"]] == [_PORT]


def test_compose_starts_a_job_that_fits_its_hosts():
    services = _read("compose.yaml")["services"]
    command = shlex.split(_with_defaults(services["host1"]["command"]))
    hosts = command[command.index("-H") + 1]
    slots = dict(host.split(":") for host in hosts.split(","))
    assert set(slots) == {services[name]["hostname"] for name in slots}
    ranks = int(command[command.index("-np") + 1])
    assert ranks == sum(map(int, slots.values()))
    assert _plan(command, ranks)["world_size"] == ranks


def test_the_mpijob_starts_a_job_that_fits_its_hosts():
    spec = _read("mpijob.yaml")["spec"]
    (launcher,) = spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"][
        "containers"
    ]
    worker = spec["mpiReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    ranks = int(launcher["args"][launcher["args"].index("-np") + 1])
    assert ranks == worker["replicas"] * spec["slotsPerWorker"]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == (spec["slotsPerWorker"])
    )
    assert _plan(launcher["args"], ranks)["world_size"] == ranks
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {v["name"] for v in worker["template"]["spec"]["volumes"]}
    assert mounts == volumes


def _schema(name):
    """A published schema, from a folder that is named or from the network."""
    url, digest = _SCHEMAS[name]
    folder = os.environ.get("HVD_IMAGENET_SCHEMAS")
    try:
        if folder:
            content = (pathlib.Path(folder) / name).read_bytes()
        else:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
    except urllib.error.URLError as error:
        pytest.skip(
            f"{url} cannot be read ({error.reason}); save it and name its"
            " folder in HVD_IMAGENET_SCHEMAS"
        )
    assert hashlib.sha256(content).hexdigest() == digest
    return yaml.safe_load(content)


def _closed(schema):
    """A schema of Kubernetes that refuses fields it does not know.

    The API server drops them with a warning at most.
    """
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not is_open:
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.mark.slow
def test_compose_is_valid():
    validate = jsonschema.Draft7Validator(_schema("compose-spec.json"))
    compose = _read("compose.yaml")
    validate.validate(compose)
    compose["services"]["host1"]["depends_no"] = {}
    assert not validate.is_valid(compose)


@pytest.mark.slow
def test_the_mpijob_is_valid():
    definition = _schema("kubeflow.org_mpijobs.yaml")
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v2beta1"
    )
    # What every object of Kubernetes has; the definition leaves it open.
    schema["properties"]["metadata"] = {"properties": {"name": {}}}
    validate = jsonschema.Draft202012Validator(_closed(schema))
    job = _read("mpijob.yaml")
    validate.validate(job)
    job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"][
        "container"
    ] = 1
    assert not validate.is_valid(job)
