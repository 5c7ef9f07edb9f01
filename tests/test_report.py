"""The report says what run directories hold, whole or not, and no more."""

import dataclasses
import datetime
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import numpy as np
import pandas
import pytest
from PIL import Image

import jobs
from hvd_imagenet import flags, report, runlog
from hvd_imagenet.plan import make_plan
from hvd_imagenet.reporting import (
    curves,
    drawing,
    facts,
    metrics,
    naming,
    page,
    plan_curves,
    runs,
    styles,
    tables,
    thinning,
    worlds,
)
from hvd_imagenet.reporting.options import ReportOptions

_IMAGES = 640
_WORLD = {"world": {"rank": 0, "size": 1, "local_rank": 0, "local_size": 1}}
_RECIPE = (
    "--model=resnet18",
    "--num_classes=10",
    "--image_size=32",
    "--batch_size_per_process=32",
    "--epochs=4",
    "--warmup_epochs=0",
)


class _Job:
    """Writes a run directory as a training does, without the training."""

    def __init__(self, directory, *recipe, world_size=1, images=_IMAGES):
        self.directory = directory
        config = flags.parse_apart(
            ["", *_RECIPE, f"--workdir={directory}", *recipe]
        )
        self.plan = make_plan(
            config,
            world_size=world_size,
            train_images=images,
            validation_images=100,
        )
        self.log = runlog.RunLog(config)

    def begin(self, first_step=0, **environment):
        self.log.begin(self.plan, {**_WORLD, **environment}, first_step)
        return self

    def steps(self, first, last, **values):
        """Logs each of these steps, first to last, as `LogMetrics` does."""
        for step in range(first, last + 1):
            plain = {
                "epoch": self.plan.epochs_before(step),
                "loss": 3.0 / step,
                "top1": 1 - 1 / step,
                "top5": 1 - 0.5 / step,
                "learning_rate": self.plan.learning_rate(step - 1),
                "images_per_second": 100.0 * self.plan.world_size,
                "data_wait_share": 0.01,
            }
            self.log.metrics("train", step, {**plain, **values})
        return self

    def evaluated(self, epoch, **values):
        plain = {"loss": 1.0 / epoch, "top1": 1 - 0.5 / epoch, "top5": 0.9}
        self.log.metrics(
            "validation",
            self.plan.epoch_end_step(epoch - 1),
            {"epoch": epoch, "examples": 100.0, **plain, **values},
        )
        return self

    def finish(self, **values):
        result = {
            "loss": 0.25,
            "top1": 0.875,
            "top5": 0.96875,
            "examples": 100,
            "epochs": self.plan.epochs,
            "images_per_second": 123.4567,
        }
        self.log.finish({**result, **values})
        self.log.close()
        return self.directory

    def close(self):
        self.log.close()
        return self.directory


def _finished(directory, *recipe, **arguments):
    job = _Job(directory, *recipe, **arguments).begin()
    return job.steps(1, job.plan.total_steps).evaluated(4).finish()


class _Page(html.parser.HTMLParser):
    """What a browser would see: tags, references, texts by cell."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.references = []
        self.images = []
        self.rows = {}
        self._section = None
        self._cell = None
        self._row = []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag == "section":
            self._section = values["id"]
        if tag == "img":
            self.images.append(values)
        if tag == "tr":
            self._row = []
        if tag in ("th", "td"):
            self._row.append("")
            self._cell = True
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            if name in values:
                self.references.append(values[name])

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._cell = None
        if tag == "tr":
            self.rows.setdefault(self._section, []).append(self._row)

    def handle_data(self, data):
        if self._cell:
            self._row[-1] = f"{self._row[-1]} {data.strip()}".strip()

    def row(self, section, name):
        (row,) = [r for r in self.rows[section] if r[0] == name]
        return row


def _write(tmp_path, *directories, **options):
    """Writes a report; returns its page as a browser sees it."""
    path = report.write(
        ReportOptions(output_dir=str(tmp_path / "out"), **options),
        list(map(str, directories)),
    )
    return _read_page(path)


def _read_page(path):
    return _Page(pathlib.Path(path).read_text())


def _page(*directories):
    """The page less its pictures, which take their time."""
    found = _read(*directories)
    sections = {n: [] for n in ("curves", "plan", "throughput", "scaling")}
    now = datetime.datetime.now(datetime.timezone.utc)
    return _Page(page.render(found, _looks(found), sections, [], now))


def _read(*directories):
    names = naming.names(list(map(str, directories)), None)
    return [
        runs.read(str(d), name)
        for d, name in zip(directories, names, strict=True)
    ]


def _looks(found):
    return {run.name: styles.style(n) for n, run in enumerate(found)}


def _program(*arguments):
    return jobs.run(0, "-m", "hvd_imagenet.report", *arguments, check=False)


@pytest.fixture(scope="session")
def real_run(tmp_path_factory):
    """A run that was really trained, for seven steps."""
    workdir = tmp_path_factory.mktemp("report") / "real"
    jobs.train(
        0,
        "--data_format=synthetic",
        "--train_images=100",
        "--validation_images=40",
        "--batch_size_per_process=32",
        "--epochs=2",
        f"--workdir={workdir}",
    )
    return workdir


# --- What a real run becomes. ---


def test_a_real_run_becomes_a_page_and_pictures(real_run):
    finished = _program(str(real_run))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    folder = real_run / "report"
    assert finished.stdout == f"{folder / 'report.html'}\n"
    seen = _read_page(folder / "report.html")
    result = jobs.result(real_run)
    row = seen.row("results", "real")
    assert row[1:6] == [
        "finished",
        f"{100 * result['top1']:.2f}",
        f"{100 * result['top5']:.2f}",
        f"{result['loss']:.4f}",
        f"{max(100 * v['top1'] for v in _validation(real_run)):.2f}"
        + _epoch_of_best(real_run),
    ]
    assert row[6] == "2"
    assert re.fullmatch(r"\d+ s|\d min \d\d s", row[7])
    assert row[8] == f"{result['images_per_second']:,.1f}"
    assert seen.row("plan", "real")[1:4] == ["7 of 7", "1.000", "224 of 224"]
    assert seen.row("plan", "real")[-1] == "none"
    for name in ("curves", "plan", "throughput"):
        with Image.open(folder / f"report_{name}.png") as image:
            assert image.format == "PNG"
            image.load()
    assert not (folder / "report_scaling.png").exists()
    assert sorted(os.listdir(folder)) == [
        "report.html",
        "report_curves.png",
        "report_plan.png",
        "report_throughput.png",
    ]


def _validation(workdir):
    return jobs.metrics(workdir, "validation")


def _epoch_of_best(workdir):
    rows = _validation(workdir)
    best = max(range(len(rows)), key=lambda n: rows[n]["top1"])
    if best == len(rows) - 1:
        return ""
    return f" epoch {rows[best]['epoch']:g}"


def test_metrics_are_one_line_of_pandas(real_run):
    frame = pandas.read_json(real_run / "metrics.jsonl", lines=True)
    train = frame[frame.kind == "train"]
    records = jobs.metrics(real_run)
    assert train.step.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert train.loss.tolist() == pytest.approx([r["loss"] for r in records])
    assert train.timestamp.is_monotonic_increasing
    environment = json.loads((real_run / "environment.json").read_text())
    started = pandas.Timestamp(environment["started"]).tz_localize(None)
    assert started <= train.timestamp.iloc[0]
    assert train.timestamp.iloc[-1] < started + pandas.Timedelta(hours=1)


def test_it_reads_without_tensorflow(tmp_path):
    directory = _finished(tmp_path / "run")
    program = (
        "import json, sys\n"
        "from hvd_imagenet import report\n"
        "from hvd_imagenet.reporting import curves, drawing, page, runs\n"
        "from hvd_imagenet.reporting import plan_curves, world_curves\n"
        f"assert runs.read({str(directory)!r}, 'a').planned.schedule\n"
        "heavy = {'tensorflow', 'keras', 'horovod'} & sys.modules.keys()\n"
        "print(json.dumps(sorted(heavy)))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == []


# --- The page. ---

_POINT = {
    "curve": "synthetic, float32",
    "processes": 4,
    "images_per_second": 777.5,
    "efficiency": 0.875,
    "ci95": 0.0125,
    "lost_to_rest": 0.1,
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A report of two runs of two worlds and of the benchmark."""
    folder = tmp_path_factory.mktemp("drawn")
    one = _finished(folder / "1")
    two = _Job(folder / "2", world_size=2).begin().steps(1, 25)
    two = two.evaluated(1).close()
    (folder / "scaling").mkdir()
    (folder / "scaling" / "scaling.json").write_text(
        json.dumps({"mode": "scaling", "points": [_POINT]})
    )
    _write(folder, one, two, folder / "scaling")
    return folder / "out"


def test_the_page_needs_nothing_else(drawn):
    seen = _read_page(drawn / "report.html")
    assert seen.references
    for reference in seen.references:
        assert reference.startswith(("data:image/svg+xml;base64,", "#"))
    (style,) = re.findall(r"<style>(.*?)</style>", seen.text, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    assert not {"script", "link", "iframe", "object"} & set(seen.tags)
    ids = set(re.findall(r'id="([^"]*)"', seen.text))
    anchors = {r[1:] for r in seen.references if r.startswith("#")}
    assert anchors == ids
    # Learning, plan, throughput, scaling.
    assert len(seen.images) == 6 + 1 + 3 + 2
    for image in seen.images:
        assert image["alt"]
        assert "DOCTYPE" not in _svg(image)
        for element in ElementTree.fromstring(_svg(image)).iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")


def _svg(image):
    return b64decode(image["src"].partition(",")[2]).decode()


def test_a_run_has_its_colour_everywhere(drawn):
    seen = _read_page(drawn / "report.html")
    for number in range(2):
        colour = styles.style(number).colour
        assert f'stroke="{colour}"' in seen.text
        for image in seen.images[:-2]:
            assert f"stroke: {colour}" in _svg(image)
        for image in seen.images[-2:]:  # Points, and no lines.
            assert f"fill: {colour}" in _svg(image)
        for name in ("curves", "plan", "throughput", "scaling"):
            with Image.open(drawn / f"report_{name}.png") as picture:
                assert picture.format == "PNG"
                pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            drawn_colour = tuple(bytes.fromhex(colour[1:]))
            assert (pixels == drawn_colour).all(axis=1).any()


def test_the_report_of_the_benchmark_is_taken_in(drawn):
    seen = _read_page(drawn / "report.html")
    assert seen.row("scaling", "Benchmark")[1:] == [
        "scaling: synthetic, float32",
        "4",
        "777.5",
        "87.5 \u00b1 1.2",
    ]
    assert seen.row("scaling", "2")[2:] == ["2", "200.0", "81.0"]


def test_names_and_values_are_text_and_never_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    name = f"{evil}&\"'$\\alpha$"
    one = _Job(tmp_path / "one").begin(
        data={"train": evil, "</dd>": evil},
        variables={"HOROVOD_X": "<img src=x onerror=alert(1)>"},
    )
    one.steps(1, 4).evaluated(1).close()
    two = _finished(tmp_path / "two", f"--tfds_name={evil}")
    seen = _write(tmp_path, one.directory, two, names=(name, "_2"))
    assert "script" not in seen.tags
    assert seen.tags.count("img") == len(seen.images) == 10
    assert all(image["src"].startswith("data:") for image in seen.images)
    assert seen.row("results", name)
    assert seen.row("results", "_2")[1] == "finished"


# --- What is compared. ---


def test_knobs_that_differ_are_listed_and_others_are_not(tmp_path):
    one = _finished(tmp_path / "1", "--schedule=cosine", "--log_steps=7")
    two = _finished(tmp_path / "2", "--base_learning_rate=0.3")
    found = _read(one, two)
    recipe = facts.differing(facts.knobs(found, recipe=True))
    assert {fact.name: dict(fact.values) for fact in recipe} == {
        "base_learning_rate": {"0.1": ("1",), "0.3": ("2",)},
        "schedule": {"cosine": ("1",), "steps": ("2",)},
        # Those of a schedule have no effect beside another.
        "decay_epochs": {"not used": ("1",), "30,60,80": ("2",)},
        "decay_factor": {"not used": ("1",), "0.1": ("2",)},
    }
    site = facts.differing(facts.knobs(found, recipe=False))
    assert {fact.name: dict(fact.values) for fact in site} == {
        "log_steps": {"7": ("1",), "20": ("2",)}
    }
    text = _page(one, two).text
    shown = text[text.index('id="recipe"') : text.index('id="environment"')]
    for name in ("base_learning_rate", "decay_factor", "log_steps"):
        assert f"<dt>{name}</dt>" in shown
    assert "<dt>epochs</dt>" not in shown
    assert "<dt>commit_steps</dt>" not in shown


def test_runs_of_different_data_and_networks_are_noted(tmp_path):
    one = _finished(tmp_path / "1")
    two = _finished(tmp_path / "2", "--model=resnet50", images=960)
    text = _page(one, two).text
    assert "The runs have different networks: resnet18; resnet50." in text
    assert "640 and 100; 960 and 100." in text
    assert "The runs have" not in _page(one).text


def test_the_plan_is_what_the_log_is_compared_with(tmp_path):
    job = _Job(tmp_path / "run", "--schedule=cosine").begin()
    job.steps(1, 20).steps(21, 21, learning_rate=0.0625).close()
    (run,) = _read(job.directory)
    assert run.planned.schedule is not None
    planned = job.plan.learning_rate(20)
    assert tables.plan(run)["rate"] == f"{abs(planned - 0.0625):.2g}"
    (panel,) = plan_curves.panels([run], _looks([run]))
    plan, logged = panel.lines
    assert (plan.look, logged.look) == ("plan", "line")
    assert len(plan.xs) == job.plan.total_steps
    assert plan.ys[20] == planned
    assert logged.ys[20] == 0.0625
    np.testing.assert_array_equal(logged.ys[:20], plan.ys[:20])
    np.testing.assert_array_equal(logged.xs, plan.xs[:21])


def test_phases_are_drawn_where_there_are_any(tmp_path):
    job = _Job(
        tmp_path / "run",
        "--phase_epochs=2",
        "--phase_image_sizes=64",
        "--phase_global_batch_sizes=64",
    ).begin()
    job.steps(1, 40, image_size=32, global_batch_size=32)
    job.steps(41, 50, image_size=64, global_batch_size=64).close()
    (run,) = _read(job.directory)
    _, batch, size = plan_curves.panels([run], _looks([run]))
    for panel, low, high in ((batch, 32, 64), (size, 32, 64)):
        plan, logged = panel.lines
        assert plan.ys.tolist() == [low] * 40 + [high] * 20
        assert logged.ys.tolist() == [low] * 40 + [high] * 10
    assert tables.plan(run)["image_size"] == "32; 64"


def test_a_plan_that_cannot_be_made_again_is_read_between_its_lines(tmp_path):
    # As an elastic run's: what was done before is in no flag.
    job = _Job(tmp_path / "run", "--schedule=cosine").begin()
    job.steps(1, 20).close()
    path = tmp_path / "run" / "plan.json"
    text = path.read_text()
    assert '"total_steps": 80' in text
    path.write_text(text.replace('"total_steps": 80', '"total_steps": 79'))
    (run,) = _read(job.directory)
    assert run.planned.schedule is None
    assert run.planned.learning_rate(0) == job.plan.learning_rate(0)
    assert run.planned.learning_rate(20) == job.plan.learning_rate(20)
    between = run.planned.learning_rate(30)
    ends = job.plan.learning_rate(20), job.plan.learning_rate(40)
    assert between == pytest.approx(np.mean(ends))
    assert _page(job.directory).row("plan", "run")[1] == "20 of 79"


def test_worlds_are_compared_by_images_per_second_and_process(tmp_path):
    found = _read(
        _finished(tmp_path / "1"),
        _finished(tmp_path / "2", world_size=2),
        _finished(tmp_path / "other", "--image_size=64", world_size=4),
    )
    found[1] = dataclasses.replace(
        found[1], result={**found[1].result, "images_per_second": 200.0}
    )
    points = worlds.of_runs(found)
    assert [(p.run, p.processes) for p in points] == [("1", 1), ("2", 2)]
    assert points[0].efficiency == 1.0
    assert points[1].efficiency == pytest.approx(200.0 / 2 / 123.4567)


# --- Runs that are not whole. ---


def test_a_run_that_was_interrupted(tmp_path):
    job = _Job(tmp_path / "run").begin().steps(1, 20).evaluated(1)
    job.steps(21, 25).close()
    seen = _page(job.directory)
    row = seen.row("results", "run")
    assert row[1] == "interrupted, step 25 of 80"
    assert row[2] == "50.00 after epoch 1"
    assert row[6] == "1.25 of 4"
    assert row[8] == "100.0"


def test_a_run_that_goes_on(tmp_path):
    job = _Job(tmp_path / "run").begin().steps(1, 25)
    (run,) = _read(job.directory)
    assert tables.status(run) == ("running", "running, step 25 of 80")
    # To ask does not take the directory away.
    job.steps(26, 26).close()
    (run,) = _read(job.directory)
    assert tables.status(run).kind == "stopped"


def test_a_run_that_was_resumed(tmp_path):
    _Job(tmp_path / "run").begin().steps(1, 25).close()
    job = _Job(tmp_path / "run", world_size=1).begin(first_step=20)
    job.steps(21, 80).finish()
    (run,) = _read(job.directory)
    assert tables.status(run) == ("finished", "finished; resumed at 20")
    assert [start.step for start in run.starts] == [0, 20]
    assert run.metrics.train.steps.tolist() == list(range(1, 81))
    assert 0 <= run.seconds < 60


def test_time_is_of_every_start_without_what_lies_between(tmp_path):
    job = _Job(tmp_path / "run").begin().steps(1, 3)
    directory = job.close()
    (run,) = _read(directory)
    begun = run.starts[0].time.timestamp()
    times = [begun + 10, begun + 30, begun + 1005]
    train = dataclasses.replace(
        run.metrics.train,
        columns={**run.metrics.train.columns, "timestamp": np.array(times)},
    )
    again = dataclasses.replace(
        run.starts[0],
        time=run.starts[0].time + datetime.timedelta(seconds=1000),
        step=2,
    )
    resumed = dataclasses.replace(
        run,
        starts=(run.starts[0], again),
        metrics=dataclasses.replace(run.metrics, train=train),
    )
    assert resumed.seconds == pytest.approx(30 + 5)
    assert resumed.seconds_at(train).tolist() == pytest.approx([10, 30, 35])
    # What is not known is not guessed.
    assert dataclasses.replace(resumed, starts=(again,)).seconds is None
    assert dataclasses.replace(resumed, starts=()).seconds is None


def test_accuracy_by_time(tmp_path):
    job = _Job(tmp_path / "run").begin().evaluated(1).evaluated(2)
    (run,) = _read(job.close())
    begun = run.starts[0].time.timestamp()
    columns = {
        **run.metrics.validation.columns,
        "timestamp": np.array([begun + 120, begun + 600]),
    }
    validation = dataclasses.replace(run.metrics.validation, columns=columns)
    run = dataclasses.replace(
        run, metrics=dataclasses.replace(run.metrics, validation=validation)
    )
    (panel,) = curves.by_time([run], _looks([run]))
    assert panel.x_label == "time trained [min]"
    assert panel.lines[0].xs.tolist() == pytest.approx([2, 10])
    assert panel.lines[0].ys.tolist() == [50, 75]
    assert curves.by_time([dataclasses.replace(run, starts=())], {}) == []


def test_losses_that_are_not_finite(tmp_path):
    job = _Job(tmp_path / "run").begin().steps(1, 9)
    job.steps(10, 10, loss=float("nan"), top1=0.0, top5=0.0).close()
    (run,) = _read(job.directory)
    assert tables.status(run) == ("failed", "diverged, step 10 of 80")
    loss = curves.learning([run], _looks([run]))[0]
    line, mark = loss.lines
    assert np.isnan(line.ys[-1])
    assert (mark.look, mark.ys.tolist()) == ("marks", [3.0 / 9])
    directory = _Job(tmp_path / "2").begin().steps(1, 80)
    directory = directory.evaluated(4, loss=float("inf")).finish(
        loss=float("nan"), images_per_second=None
    )
    row = _page(directory).row("results", "2")
    assert row[4] == "not finite"
    assert row[8] == "\u2013"


def test_one_diverging_run_leaves_the_axis_to_the_others(tmp_path):
    calm = _finished(tmp_path / "calm")
    wild = _Job(tmp_path / "wild").begin().steps(1, 9)
    # As far as a float32 goes.
    wild.steps(10, 10, loss=3e38).close()
    found = _read(calm, wild.directory)
    panel = curves.learning(found, _looks(found))[0]
    assert panel.y_cut == pytest.approx(9.0)
    assert panel.caption == "Values above 9 are beyond the axis."
    (alone, *_) = curves.learning(found[1:], _looks(found))
    assert len(drawing.svgs([panel, alone])) == 2


def test_a_run_that_has_logged_nothing_yet(tmp_path):
    job = _Job(tmp_path / "run").begin()
    seen = _page(job.close())
    row = seen.row("results", "run")
    assert row[1] == "nothing logged yet"
    assert set(row[2:6]) == {"\u2013"}
    assert seen.row("plan", "run")[1] == "0 of 80"


@pytest.mark.parametrize(
    "damage",
    [
        b'{"kind": "train", "step": 3, "epo',
        b"\xff\xfe\x00\n",
        b"5\n",
        b"{}\n",
        b"\n",
        b'{"kind": "train", "step": 3}\n',
        b'{"kind": "train", "step": -1, "epoch": 1}\n',
        b'{"kind": "train", "step": 3.5, "epoch": 1}\n',
        b'{"kind": "train", "step": true, "epoch": 1}\n',
        b'{"kind": "train", "step": 3, "epoch": null}\n',
        b'{"kind": "train", "step": 3, "epoch": 1, "loss": "x"}\n',
        b'{"kind": "train", "step": 3, "epoch": 1, "loss": [1]}\n',
        b'{"kind": [], "step": 3, "epoch": 1}\n',
        b'{"kind": "train", "step": 3, "epoch": -1}\n',
        b'{"kind": "train", "step": 3, "epoch": Infinity}\n',
        b'{"kind": "train", "step": 3, "epoch": 1, "loss": 1e300}\n',
        b"[" * 100_000 + b"\n",
        b'{"kind": "train", "step": 3, "epoch": 1, "a": ' + b"9" * 400 + b"}\n",
    ],
)
def test_damaged_lines_are_left_out_and_counted(tmp_path, damage):
    job = _Job(tmp_path / "run").begin().steps(1, 2)
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(damage + (b"" if damage.endswith(b"\n") else b"\n"))
    job.steps(4, 5).close()
    (run,) = _read(job.directory)
    assert run.metrics.train.steps.tolist() == [1, 2, 4, 5]
    assert run.problems == ("1 damaged line of metrics.jsonl is left out",)


_CONTENTS = [
    None,
    "",
    "{",
    "[]",
    "null",
    "5",
    "{}",
    '{"phases": []}',
    '{"phases": [{}], "train_images": "x"}',
    "[" * 100_000,
    "\0",
    "--epochs=x\n",
    "--no_such_flag=1\n",
]


@pytest.mark.parametrize("content", _CONTENTS)
@pytest.mark.parametrize(
    "name", ["run.flags", "plan.json", "environment.json", "result.json"]
)
def test_any_other_file_may_be_damaged_or_away(tmp_path, name, content):
    directory = _finished(tmp_path / "run")
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(content)
    (run,) = _read(directory)
    for told in (tables.status, tables.result, tables.plan, facts.command):
        told(run)
    harmless = {
        "run.flags": ("", "{"),
        "environment.json": tuple(
            c for c in _CONTENTS if c and c[:2] in ("{}", '{"')
        ),
        "result.json": (None,),
    }
    if content not in harmless.get(name, ()):
        (problem,) = run.problems
        assert problem.startswith(f"{name} cannot be read (")


_PHASE = {
    "epoch": 0.0,
    "first_step": 0,
    "first_position": 0,
    "image_size": 32,
    "crop_area_min": 0.08,
    "global_batch_size": 32,
    "batch_size_per_process": 32,
    "accumulation_steps": 1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"train_images": 0},
        {"train_images": "640"},
        {"total_steps": -1},
        {"epochs": None},
        {"learning_rate": []},
        {"learning_rate": [[0]]},
        {"learning_rate": "x"},
        {"phases": []},
        {"phases": [{"epoch": 0}]},
        {"phases": [_PHASE | {"global_batch_size": "x"}]},
        {"learning_rate": [[0, 1e300]]},
    ],
)
def test_a_plan_that_makes_no_sense_is_a_problem(tmp_path, changes):
    directory = _finished(tmp_path / "run")
    path = directory / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (run,) = _read(directory)
    assert run.planned is None
    (problem,) = run.problems
    assert problem.startswith("plan.json cannot be read (")


def test_a_page_of_almost_nothing(tmp_path, capsys):
    """All that is wrong stands on the page and in standard error."""
    job = _Job(tmp_path / "run").begin().steps(1, 5)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write("damaged\n{\n")
    job.close()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.flags").write_text("--no_such_flag=1\n")
    (bare / "environment.json").write_text(
        '{"world": 5, "versions": [], "gpus": [1], "command": "x",'
        ' "starts": [{}, 5, {"time": 1, "step": "x"}], "data": "\\ud800"}'
    )
    seen = _write(tmp_path, bare, job.directory)
    assert seen.row("results", "bare")[1] == "nothing logged yet"
    assert seen.row("plan", "bare")[1] == "no plan"
    said = capsys.readouterr().err
    note = "run: 2 damaged lines of metrics.jsonl are left out."
    assert note in seen.text
    assert note in said.splitlines()
    assert "bare: run.flags cannot be read" in said
    assert "bare: plan.json cannot be read (No such file" in said


def test_long_values_do_not_fill_the_page(tmp_path):
    long = "x" * 100_000
    one = _Job(tmp_path / "1", f"--tfds_name={long}").begin(
        data={"train": long}
    )
    one.steps(1, 3).close()
    seen = _page(one.directory, _finished(tmp_path / "2"))
    assert "(100,000 characters)" in seen.text
    assert "x" * 1000 not in seen.text


def test_long_runs_are_thinned(tmp_path):
    steps = np.arange(1, 30_001)
    noise = np.random.default_rng(0).normal(size=len(steps))
    noise[7] = np.nan
    xs, ys = thinning.means(steps / 100, noise)
    assert len(xs) == len(ys) == thinning.POINTS
    np.testing.assert_allclose(ys.mean(), np.nanmean(noise), atol=1e-4)
    np.testing.assert_allclose(ys[0], np.nanmean(noise[:75]))
    np.testing.assert_allclose(xs[0], np.mean(steps[:75] / 100))
    noise[75:150] = np.nan
    assert np.flatnonzero(np.isnan(thinning.means(steps, noise)[1])) == [1]
    rows = thinning.rows(30_000)
    assert len(rows) == thinning.POINTS
    assert (rows[0], rows[-1]) == (0, 29_999)
    assert thinning.rows(3).tolist() == [0, 1, 2]


def test_a_step_that_was_logged_twice_counts_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [(2, 0.5), (1, 0.25), (2, 0.75)]
    path.write_text(
        "".join(
            json.dumps({"kind": "train", "step": s, "epoch": s, "loss": v})
            + "\n"
            for s, v in lines
        )
    )
    train = metrics.read(str(path)).train
    assert train.steps.tolist() == [1, 2]
    assert train.column("loss").tolist() == [0.25, 0.75]


# --- What is asked. ---


def test_names_are_the_ends_that_tell_runs_apart():
    ends = naming.names(["/a/x/run", "/a/y/run", "/b/z"], None)
    assert ends == ["x/run", "y/run", "z"]
    assert naming.names(["/a", "/b/a"], None) == ["a", "b/a"]
    assert naming.names(["/a/r", "/b/r"], ("one", "two")) == ["one", "two"]


def test_flags_behind_runs_and_paths_that_are_no_text(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    directory = _finished(tmp_path / "run")
    shutil.copytree(directory, odd)
    finished = _program(odd, str(directory), "--names=a,b")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"{tmp_path}/\ufffd\ufffd/report/report.html\n"
    seen = _read_page(os.path.join(odd, "report", "report.html"))
    assert seen.row("results", "b")[1] == "finished"
    assert not (directory / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no run is named"),
        (["{run}/none"], "{run}/none is not there; name the --workdir"),
        (["{empty}"], "{empty} is no run directory: it has neither run.flags"),
        (["{run}", "{run}/../run"], "{run} is named 2 times; name it once."),
        (["{run}", "--names=a,b"], "--names=a,b must be 1 different name, one"),
        (["{run}", "--nosuch=1"], "nosuch"),
        (["{run}/plan.json"], "is neither a run directory nor a report of"),
        (["{bench}"], "No run is named, only reports of the benchmark"),
        (["{run}", "--output_dir={run}/run.flags/x"], "cannot be made (Not a"),
        (["{run}", "--output_dir={full}"], "report.html could not be written"),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, capsys, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "scaling.json").write_text('{"points": []}')
    (tmp_path / "full" / "report.html").mkdir(parents=True)
    places = {n: tmp_path / n for n in ("run", "empty", "bench", "full")}
    _Job(places["run"]).begin().steps(1, 3).close()
    arguments = [argument.format(**places) for argument in arguments]
    finished = _program_here(arguments, capsys)
    assert finished.returncode == 1
    first, *rest = finished.stderr.splitlines()
    assert first.startswith("error: ")
    assert said.format(**places) in first
    assert rest in ([], ["See --help for the flags."])
    assert finished.stdout == ""


def _program_here(arguments, capsys):
    """Runs the program in this process, which is quicker."""
    values = flags.flags.FlagValues()
    flags.define_group(ReportOptions, values)
    try:
        status = report.main(
            flags.parse_or_exit(
                ["report", *arguments],
                lambda argv: report.parse(argv, values),
            )
        )
    except SystemExit as exit_:
        status = exit_.code
    said = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, status, said.out, said.err)


def test_it_says_what_is_not_installed(tmp_path, monkeypatch):
    directory = _finished(tmp_path / "run")
    find = report.importlib.util.find_spec
    monkeypatch.setattr(
        report.importlib.util,
        "find_spec",
        lambda name: None if name == "jinja2" else find(name),
    )
    with pytest.raises(ValueError, match="needs jinja2, not installed here"):
        _write(tmp_path, directory)
