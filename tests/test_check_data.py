"""The check of a data set finds what is planted, and nothing in clean data."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import image_data
import jobs
from hvd_imagenet import check_data, data_report, inspection, split_checks
from hvd_imagenet.config import Config, DataConfig, ModelConfig, RunConfig
from hvd_imagenet.split_checks import CheckOptions

_REPOSITORY = pathlib.Path(__file__).parent.parent
_CLASSES = 4
_TRAIN_LABELS = (1, 2, 3, 4, 1, 2, 3, 4, 1, 1)
_VALIDATION_LABELS = (1, 2, 3, 4, 4)


def _encoded(split, number, mode="RGB", file_format="JPEG"):
    # Heights and widths of 30 to 39 and 40 to 49.
    pixels = image_data.pixels(
        30 + number, 40 + number, [split == "train", number]
    )
    return image_data.encode(Image.fromarray(pixels).convert(mode), file_format)


def _clean():
    """Encoded images and stored labels by split."""
    data = {
        "train": [_encoded("train", n) for n in range(10)],
        "validation": [_encoded("validation", n) for n in range(5)],
    }
    data["train"][1] = _encoded("train", 1, "CMYK")
    data["train"][2] = _encoded("train", 2, "L")
    data["train"][3] = _encoded("train", 3, "RGB", "PNG")
    return data, {"train": _TRAIN_LABELS, "validation": _VALIDATION_LABELS}


def _write(directory, data, labels):
    for split in data:
        pairs = zip(data[split], labels[split], strict=True)
        records = [image_data.example(*pair) for pair in pairs]
        middle = len(records) // 2
        image_data.write_shards(
            directory, split, [records[:middle], records[middle:]]
        )
    return directory


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("clean"), *_clean())


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """One fault of every kind, two of them without a pixel changed."""
    data, labels = _clean()
    train = data["train"]
    # Of the last rows alone, which few crops see.
    train[4] = train[4][:-20]
    train[5] = b"no image"
    train[7] = data["validation"][3]
    labels["train"] = (1, 2, 3, 4, 1, 2, 9, 4, 1, 1)
    directory = _write(tmp_path_factory.mktemp("spoilt"), data, labels)
    path = directory / "train-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[content.index(train[2]) + 100] ^= 1
    path.write_bytes(bytes(content))
    shard = directory / "validation-00001-of-00002"
    records = [
        image_data.example(data["validation"][n], labels["validation"][n])
        for n in (2, 3)
    ]
    image_data.write_records(shard, [*records, b"no example"])
    return directory


def _request(data_dir, *, label_offset=1, threads=2, seed=0, **options):
    """What the program's `main` takes."""
    return (
        Config(
            model=ModelConfig(num_classes=_CLASSES),
            data=DataConfig(
                data_dir=os.fspath(data_dir),
                label_offset=label_offset,
                input_threads=threads,
            ),
            run=RunConfig(seed=seed),
        ),
        CheckOptions(**options),
    )


def _check(data_dir, path, **asked):
    """Exit status and the JSON object."""
    status = check_data.main(
        *_request(data_dir, json_file=os.fspath(path), **asked)
    )
    return status, json.loads(path.read_text())


def _timeless(found):
    for split in found["splits"].values():
        del split["seconds"], split["images_per_second"]
    return found


def test_nothing_is_wrong_with_clean_data(clean, tmp_path, capsys):
    status, found = _check(clean, tmp_path / "found.json", full=True)
    output = capsys.readouterr()
    assert status == 0
    assert output.err == ""
    assert found["finished"]
    assert found["errors"] == found["problems"] == found["warnings"] == []
    train, validation = (found["splits"][k] for k in ("train", "validation"))
    data, _ = _clean()
    for split, facts in (("train", train), ("validation", validation)):
        sizes = [len(encoded) for encoded in data[split]]
        assert facts["images"] == facts["read"] == len(sizes)
        assert facts["encoded_bytes"]["minimum"] == min(sizes)
        assert facts["encoded_bytes"]["maximum"] == max(sizes)
        assert facts["findings"] == []
        assert facts["least_stored_label"] == 1
        assert facts["greatest_stored_label"] == 4
    assert train["images_per_class"] == [4, 2, 2, 2]
    assert validation["images_per_class"] == [1, 1, 1, 2]
    assert train["formats"] == {
        "JPEG RGB": 7,
        "JPEG CMYK": 1,
        "JPEG greyscale": 1,
        "PNG RGB": 1,
    }
    assert train["height"] == {"minimum": 30, "median": 34, "maximum": 39}
    assert train["width"] == {"minimum": 40, "median": 44, "maximum": 49}
    assert "JPEG CMYK" in output.out
    assert output.out.endswith(
        "Nothing is wrong with what was read: 10 of 10 train images and 5 of 5"
        " validation images.\n"
    )


def test_every_planted_fault_is_found_and_named(spoilt, tmp_path, capsys):
    status, found = _check(spoilt, tmp_path / "found.json", full=True)
    assert status == 1
    first, second = (f"{spoilt}/train-0000{n}-of-00002" for n in (0, 1))
    expected = [
        ("unreadable", f"record 2 of {first} (at byte ", "its CRC-32C"),
        ("undecodable", f"record 4 of {first} (at byte ", "Invalid JPEG"),
        ("undecodable", f"record 0 of {second} (at byte ", "Unknown image"),
        ("mislabelled", f"record 1 of {second} (at byte ", "9, outside 1 to 4"),
        (
            "duplicate",
            f"record 2 of {second} (at byte ",
            f"same bytes as record 1 of {spoilt}/validation-00001-of-00002",
        ),
    ]
    findings = found["splits"]["train"]["findings"]
    for finding, (kind, where, words) in zip(findings, expected, strict=True):
        assert finding["kind"] == kind
        assert finding["where"].startswith(where)
        assert finding["text"].startswith(finding["where"])
        assert words in finding["text"]
        assert "\n" not in finding["text"]
    (finding,) = found["splits"]["validation"]["findings"]
    assert finding["kind"] == "unparsable"
    assert finding["where"].startswith(
        f"record 2 of {spoilt}/validation-00001-of-00002 "
    )
    # Both of the third class are out: one is unreadable, one says 9.
    assert found["splits"]["train"]["images_per_class"] == [4, 2, 0, 2]
    output = capsys.readouterr().out
    assert "1 of 4 classes, counted from 0, have no train image:" in output
    assert "\n  class 2\n" in output
    assert "2 of 10 train images cannot be decoded:\n  record 4 of" in output
    assert "Something is wrong" in output


def test_long_lists_are_cut_for_people_alone(spoilt, tmp_path, capsys):
    path = tmp_path / "found.json"
    _, found = _check(spoilt, path, full=True, list_findings=1)
    output = capsys.readouterr().out
    assert "  record 4 of" in output
    assert "train-00001-of-00002 (at byte 0) cannot be used" not in output
    assert "  and 1 more.\n" in output
    assert len(found["splits"]["train"]["findings"]) == 5


def test_the_first_label_is_detected(tmp_path, capsys):
    data, labels = _clean()
    labels = {k: [label - 1 for label in v] for k, v in labels.items()}
    directory = _write(tmp_path / "data", data, labels)
    path = tmp_path / "found.json"
    status, found = _check(directory, path, full=True, label_offset=None)
    assert status == 0
    assert found["splits"]["train"]["images_per_class"] == [4, 2, 2, 2]
    assert found["splits"]["train"]["least_stored_label"] == 0
    # Neither 0 nor 4.
    labels = {k: [2] * len(v) for k, v in labels.items()}
    directory = _write(tmp_path / "other", data, labels)
    status, found = _check(directory, path, full=True, label_offset=None)
    assert status == 1
    (error,) = found["errors"]
    assert "labels of 15 records, 2 to 2, do not tell" in error
    assert [s["read"] for s in found["splits"].values()] == [5, 10]


def test_threads_change_nothing(spoilt, tmp_path):
    one, many = (
        _check(spoilt, tmp_path / f"{n}", full=True, threads=n) for n in (1, 5)
    )
    assert _timeless(one[1]) == _timeless(many[1])


def test_a_sample_tells_only_of_what_it_read(clean, tmp_path, capsys):
    status, found = _check(clean, tmp_path / "found.json", sample_images=3)
    assert status == 0
    train = found["splits"]["train"]
    assert (train["images"], train["read"]) == (10, 3)
    # One class of four was not seen, which says nothing.
    assert 0 in train["images_per_class"]
    assert "3 of 10 train images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("length", "count"), [(10, 3), (1000, 400), (1_281_167, 4096)]
)
def test_a_sample_is_spread_over_all_parts(length, count):
    sample = inspection.sample(length, count, 0)
    ends = np.arange(count + 1) * length // count
    # One of each part, so none twice.
    assert np.all((ends[:-1] <= sample) & (sample < ends[1:]))
    np.testing.assert_array_equal(sample, inspection.sample(length, count, 0))
    assert np.any(sample != inspection.sample(length, count, 1))
    # Not always the same place of a part, which could be that of a shard.
    assert len(np.unique(sample - ends[:-1])) > 1


def test_a_sample_of_more_than_there_are_is_all():
    assert inspection.sample(5, 9, 3).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("stored", "wrong", "bad"),
    [((1, 2, 3, 4), 0, 1), ((0, 1, 2, 3), 1, 1)],
)
def test_labels_that_count_from_elsewhere_are_named(
    tmp_path, capsys, stored, wrong, bad
):
    data = {
        split: [_encoded(split, number) for number in range(4)]
        for split in ("train", "validation")
    }
    directory = _write(tmp_path, data, {"train": stored, "validation": stored})
    path = tmp_path / "found.json"
    status, _ = _check(directory, path, full=True, label_offset=1 - wrong)
    assert status == 0
    capsys.readouterr()
    status, found = _check(directory, path, full=True, label_offset=wrong)
    assert status == 1
    output = capsys.readouterr().out
    for split in ("train", "validation"):
        assert (
            f"labels of the {split} split are {stored[0]} to {stored[-1]}, so"
            f" they count from {1 - wrong}; set --label_offset={1 - wrong}."
        ) in output
        kinds = [f["kind"] for f in found["splits"][split]["findings"]]
        assert kinds == ["mislabelled"] * bad


@pytest.mark.parametrize(
    ("split", "images", "warned"),
    [
        ("train", 1_281_167, False),
        ("train", 1_281_166, True),
        ("validation", 50_000, False),
        ("validation", 49_999, True),
    ],
)
def test_other_counts_than_imagenets_are_a_warning(split, images, warned):
    report = data_report.SplitReport(
        split=split, images=images, num_classes=1000, label_offset=1
    )
    assert report.problems(10) == []
    assert bool(report.warnings(10)) == warned
    report = data_report.SplitReport(
        split=split, images=images, num_classes=10, label_offset=1
    )
    assert report.warnings(10) == []


def test_one_split_is_checked_where_the_other_cannot_be(
    clean, tmp_path, capsys
):
    for path in clean.glob("train-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    status, found = _check(tmp_path, tmp_path / "found.json", full=True)
    assert status == 1
    assert found["splits"]["train"]["read"] == 10
    (error,) = found["errors"]
    assert "no files named validation-*-of-*" in error
    assert f"error: {error}\n" == capsys.readouterr().err


# --- Storage that does not answer, by a pipe that nobody writes to. ---


@pytest.fixture
def stalled(tmp_path):
    """An image folder of which one image is never read, and its path."""
    for split in ("train", "val"):
        images = {
            f"n{label}": {f"{n}.JPEG": _encoded(split, n) for n in range(3)}
            for label in range(_CLASSES)
        }
        image_data.write_folders(tmp_path / split, images)
    path = tmp_path / "val" / "n2" / "1.JPEG"
    path.unlink()
    os.mkfifo(path)
    yield tmp_path, path
    # Lets go who waits in this process.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_storage_that_does_not_answer_is_named(stalled, tmp_path, monkeypatch):
    directory, path = stalled
    # TensorFlow's first image takes a good part of a second.
    monkeypatch.setattr(inspection, "PATIENCE_SECONDS", 2.5)
    start = time.monotonic()
    status, found = _check(directory, tmp_path / "found.json", full=True)
    assert status == 1
    (error,) = found["errors"]
    assert error.startswith(f"{path} was not read within 2.5 s")
    assert time.monotonic() - start < 20
    # All before it, and the other split.
    assert found["splits"]["validation"]["read"] == 7
    assert found["splits"]["train"]["read"] == 12
    # The same files in every class, but none of them in both splits.
    assert found["problems"] == []


def test_ctrl_c_reports_what_was_read_and_ends(stalled):
    directory, path = stalled
    found = directory / "found.json"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hvd_imagenet.check_data",
            # As for hvd_imagenet.train.
            f"--flagfile={_REPOSITORY / 'flags' / 'goyal2017.flags'}",
            f"--num_classes={_CLASSES}",
            f"--data_dir={directory}",
            f"--workdir={directory / 'run'}",
            "--full",
            f"--json_file={found}",
        ],
        env=jobs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
    writer = None
    try:
        # One can write as soon as somebody waits to read.
        while writer is None and time.monotonic() < deadline:
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(1)  # What was begun before that is done.
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=jobs.TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.wait()
        if writer is not None:
            os.close(writer)
    assert process.returncode == 130, errors
    assert "7 of 12 validation images" in output
    assert errors.endswith("interrupted; the report says what was read.\n")
    facts = json.loads(found.read_text())
    assert not facts["finished"]
    assert facts["splits"]["validation"]["read"] == 7


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ful"], ["Unknown command line flag 'ful'"]),
        (["--sample_images=0"], ["--sample_images=0", "at least 1 images"]),
        (["--epochs=0"], ["--epochs=0"]),
    ],
)
def test_wrong_flags_are_one_clear_sentence(flags, words):
    finished = jobs.run(0, "-m", "hvd_imagenet.check_data", *flags, check=False)
    assert finished.returncode == 1
    for word in words:
        assert word in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_json_file_that_cannot_be_written_is_named_at_once(capsys):
    path = "/proc/none/found.json"
    request = _request("nowhere", json_file=path)
    assert check_data.main(*request) == 1
    assert f"--json_file={path} cannot be written" in capsys.readouterr().err


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "begin", "end"),
    [
        (_Terminal, "\r\033[Kvalidation: 1 of 5 images, ", "\r\033[K"),
        (io.StringIO, "validation: 1 of 5 images, ", " s left, 0 findings\n"),
    ],
)
def test_progress_is_a_line(clean, monkeypatch, stream, begin, end):
    for name in ("_TERMINAL_SECONDS", "_LOG_SECONDS"):
        monkeypatch.setattr(split_checks, name, 0.0)
    stream = stream()
    monkeypatch.setattr(sys, "stderr", stream)
    assert check_data.main(*_request(clean, full=True)) == 0
    text = stream.getvalue()
    assert text.startswith(begin)
    assert text.endswith(end)
    assert ("\n" in text) == (not stream.isatty())
