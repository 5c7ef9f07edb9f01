"""Lists of hosts, hostfiles, and what schedulers say."""

import pytest

from hvd_imagenet.cluster import hosts, schedulers
from hvd_imagenet.cluster.hosts import Cluster, Host


def _pairs(found):
    return [(host.name, host.slots) for host in found]


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("node1", ["node1"]),
        ("a,b", ["a", "b"]),
        (
            "node[01-03,07],gpu5",
            ["node01", "node02", "node03", "node07", "gpu5"],
        ),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("gpu[1,3]-ib.site", ["gpu1-ib.site", "gpu3-ib.site"]),
    ],
)
def test_nodelists_are_expanded(nodelist, names):
    assert hosts.expand(nodelist) == names


@pytest.mark.parametrize(
    ("nodelist", "words"),
    [
        ("node[01-03", "no closing bracket"),
        ("node[3-1]", "rising numbers"),
        ("node[]", "rising numbers"),
        ("node[a-c]", "rising numbers"),
        ("node[1-]", "rising numbers"),
        ("node[1-99999999999999999999]", "more than 10,000 hosts"),
        ("r[1-9999]n[1-9999]", "more than 10,000 hosts"),
        ("node[1-5001],node[1-5001]", "more than 10,000 hosts"),
    ],
)
def test_nodelists_that_cannot_be_are_refused(nodelist, words):
    with pytest.raises(ValueError, match=words):
        hosts.expand(nodelist)


@pytest.mark.parametrize(
    ("text", "slots_per_host", "pairs"),
    [
        ("host1:8,host2:4", None, [("host1", 8), ("host2", 4)]),
        ("10.0.0.1:8", None, [("10.0.0.1", 8)]),
        ("a, b:2", 4, [("a", 4), ("b", 2)]),
        ("n[1-2]:8,m:1", None, [("n1", 8), ("n2", 8), ("m", 1)]),
    ],
)
def test_lists_of_hosts(text, slots_per_host, pairs):
    assert _pairs(hosts.parse_list(text, slots_per_host)) == pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("host1", "host1 is not given; write host:8"),
        ("host1:8,", "'' is not a host"),
        ("", "'' is not a host"),
        ("host1:eight", "'host1:eight' must be host:slots"),
        ("host1:-1", "'host1:-1' must be host:slots"),
        ("host1:0", "host1 has 0 slots; it needs at least 1"),
        ("me@host1:8", "'me@host1' is not a host .* ~/.ssh/config"),
        ("fe80::1:8", "must be host:slots"),
        # ssh would take it for an option, and run what it says.
        ("-oProxyCommand=x:8", "is not a host that horovodrun can use"),
    ],
)
def test_lists_that_cannot_be_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Cluster(hosts=hosts.parse_list(text, None) or (), source="--hosts")


def test_hostfiles_of_all_kinds():
    text = (
        "# our cluster\n"
        "host1 slots=8\n"
        "\n"
        "host2   slots = 4  max_slots=8  # the old one\n"
        "host3:2\n"
        "node[01-02] slots=3\n"
        "\thost4\n"
    )
    assert _pairs(hosts.parse_file(text, 6)) == [
        ("host1", 8),
        ("host2", 4),
        ("host3", 2),
        ("node01", 3),
        ("node02", 3),
        ("host4", 6),
    ]


@pytest.mark.parametrize("line", ["host1 gpus=8", "host1 max_slots=8"])
def test_a_hostfile_with_other_words_alone_is_refused(line):
    with pytest.raises(ValueError, match=f"'{line}' of the hostfile"):
        hosts.parse_file(f"{line}\n", None)


def test_a_hostfile_without_slots_needs_their_number():
    with pytest.raises(ValueError, match="--slots_per_host=8"):
        hosts.parse_file("host1\n", None)


def test_a_cluster_counts_and_writes_its_processes():
    cluster = Cluster(
        hosts=(Host(name="a", slots=8), Host(name="b", slots=4)), source="test"
    )
    assert cluster.world_size == 12
    assert str(cluster) == "a:8,b:4"


@pytest.mark.parametrize(
    ("names", "words"),
    [((), "names no host"), ("aba", "names host a 2 times")],
)
def test_a_cluster_has_every_host_once(names, words):
    with pytest.raises(ValueError, match=f"test {words}"):
        Cluster(
            hosts=tuple(Host(name=name, slots=1) for name in names),
            source="test",
        )


def _found(environ, **given):
    defaults = {"hosts": None, "hostfile": None, "slots_per_host": None}
    return schedulers.find(**{**defaults, **given}, environ=environ)


_SLURM = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "1(x2)"}


@pytest.mark.parametrize(
    ("variables", "slots_per_host", "slots"),
    [
        ({}, None, [1, 1]),
        ({"SLURM_TASKS_PER_NODE": "4,3"}, None, [4, 3]),
        ({"SLURM_NTASKS_PER_NODE": "4"}, None, [4, 4]),
        # One process per GPU, whatever the tasks.
        ({"SLURM_GPUS_ON_NODE": "8"}, None, [8, 8]),
        (
            {"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "1"},
            None,
            [8, 8],
        ),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, None, [4, 4]),
        (
            {"SLURM_GPUS_ON_NODE": "0", "SLURM_NTASKS_PER_NODE": "16"},
            None,
            [16, 16],
        ),
        ({"SLURM_GPUS_ON_NODE": "8"}, 2, [2, 2]),
    ],
)
def test_hosts_of_a_slurm_job(variables, slots_per_host, slots):
    cluster = _found(_SLURM | variables, slots_per_host=slots_per_host)
    assert _pairs(cluster.hosts) == list(zip(("n1", "n2"), slots, strict=True))
    assert "Slurm" in cluster.source


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("4(x3)", "2 hosts and SLURM_TASKS_PER_NODE tasks of 3"),
        ("", "tasks of 0"),
        ("four", "'four' of SLURM_TASKS_PER_NODE=four"),
        ("1(x9999999999)", "more than 10,000"),
    ],
)
def test_slurm_variables_that_do_not_fit_are_refused(tasks, words):
    with pytest.raises(ValueError, match=words):
        _found(_SLURM | {"SLURM_TASKS_PER_NODE": tasks})


def test_counts_are_repeated():
    assert schedulers.expand_counts("4(x2),3,1(x1)") == [4, 4, 3, 1]


@pytest.mark.parametrize("variable", ["PBS_NODEFILE", "LSB_DJOB_HOSTFILE"])
def test_hosts_of_pbs_and_lsf(variable, tmp_path):
    path = tmp_path / "nodes"
    path.write_text("n1\nn1\nn2\nn2\n")
    cluster = _found({variable: str(path)})
    assert _pairs(cluster.hosts) == [("n1", 2), ("n2", 2)]
    cluster = _found({variable: str(path)}, slots_per_host=8)
    assert _pairs(cluster.hosts) == [("n1", 8), ("n2", 8)]


def test_what_the_user_names_comes_before_the_scheduler(tmp_path):
    assert str(_found(_SLURM, hosts="a:1")) == "a:1"
    path = tmp_path / "hosts"
    path.write_text("b slots=2\n")
    assert str(_found(_SLURM, hostfile=str(path))) == "b:2"


def test_a_missing_hostfile_is_named():
    with pytest.raises(ValueError, match="--hostfile=nowhere cannot"):
        _found({}, hostfile="nowhere")


def test_no_hosts_at_all_says_how_to_name_them():
    with pytest.raises(ValueError, match="--hosts=host1:8,host2:8"):
        _found({})


@pytest.mark.parametrize(
    ("processes", "text"),
    [(1, "a:1"), (4, "a:4"), (5, "a:4,b:1"), (9, "a:4,b:4,c:1")],
)
def test_the_first_processes_fill_the_first_hosts(processes, text):
    cluster = hosts.Cluster(
        hosts=hosts.parse_list("a:4,b:4,c:1", None), source="test"
    )
    first = cluster.first(processes)
    assert (str(first), first.world_size) == (text, processes)
