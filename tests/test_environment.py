"""What is passed on to the processes of a job, and what is kept secret."""

import pytest

from hvd_imagenet import environment


def test_secrets_are_left_out_by_name_and_by_value():
    parted = environment.part(
        {
            "AWS_SECRET_ACCESS_KEY": "a",
            "GITHUB_TOKEN": "b",
            "HOROVOD_LOG_LEVEL": "debug",
            "LD_LIBRARY_PATH": "/lib",
            "NCCL_DEBUG": "INFO",
            "NCCL_PASSWORD": "c",
            "PATH": "/bin",
            "PIP_INDEX_URL": "https://me:word@site/simple",
            "SITE": "d",
            "SLURM_JOB_ID": "7",
            "SLURM_JWT": "e",
            "TF_PROXY": "http://me:word@site",
            "db_passwd": "f",
        },
        backend="gloo",
    )
    assert list(parted.passed) == [
        "HOROVOD_LOG_LEVEL",
        "LD_LIBRARY_PATH",
        "NCCL_DEBUG",
        "PATH",
    ]
    assert parted.secret == (
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "NCCL_PASSWORD",
        "PIP_INDEX_URL",
        "SLURM_JWT",
        "TF_PROXY",
        "db_passwd",
    )
    assert parted.other == ("SITE", "SLURM_JOB_ID")


def test_mpi_gets_its_own_variables_and_anyone_what_is_named():
    environ = {"SLURM_JOB_ID": "7", "SITE": "d"}
    parted = environment.part(environ, backend="mpi", more=("SITE",))
    assert parted.passed == {"SITE": "d", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("NOWHERE", "is not set here"), ("MY_TOKEN", "looks like a secret")],
)
def test_names_that_cannot_be_passed_on_are_refused(name, words):
    with pytest.raises(ValueError, match=f"--pass_variables={name} {words}"):
        environment.part({"MY_TOKEN": "x"}, backend="gloo", more=(name,))
