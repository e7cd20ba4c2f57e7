"""The run folder: claimed once, read only when it fits, written whole, and never more deleted than jensen wrote."""

import errno
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import jensen
from jensen.config import skeleton
from jensen.data import files
from jensen.errors import InputError
from jensen.models import MODELS
from jensen.training import run as run_module
from jensen.training.fitter import State
from jensen.training.run import Run

REQUEST = {"model": "independent", "seed": 0}
CONFIG: dict[str, Any] = {"request": REQUEST, "data": {}, "codec": {}, "model": {}, "versions": {}}
ROWS = np.random.default_rng(0).normal(size=(60, 3))


def claimed(path: Path) -> Run:
    run = Run(path)
    assert run.start(REQUEST, overwrite=False) is None
    run.write_config(CONFIG)
    return run


def tensors() -> dict[str, Tensor]:
    return {"b": torch.arange(4.0), "a": torch.ones(2, 2, dtype=torch.float64)}


def test_the_same_request_is_met_again(tmp_path: Path):
    run = claimed(tmp_path / "run")
    assert run.start(REQUEST, overwrite=False) == {"schema": 1, **CONFIG}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"model": "gaussian"}, "model was 'independent', now 'gaussian'"),
        ({"steps": 5}, "steps was None, now 5"),
        ({"seed": 1}, "seed was 0, now 1"),
    ],
)
def test_another_request_is_refused_by_name(other: dict[str, Any], named: str, tmp_path: Path):
    with pytest.raises(InputError, match=f"another run: {named}.*-o.*--overwrite"):
        claimed(tmp_path / "run").start({**REQUEST, **other}, overwrite=False)


def test_other_things_are_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"'thesis.tex', ….* no jensen run"):
            Run(tmp_path).start(REQUEST, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    "config", ["{}", '{"schema": 2}', "[]", "no json", '{"schema": 1, "request": []}', '{"model_type": "bert"}']
)
def test_a_config_that_is_not_jensens_is_not_overwritten(config: str, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(config)
    with pytest.raises(InputError, match=r"config\.json"):
        Run(tmp_path).start(REQUEST, overwrite=True)
    assert (tmp_path / "model.safetensors").read_text() == config


def test_overwriting_deletes_only_what_jensen_wrote(tmp_path: Path):
    run = claimed(tmp_path)
    run.write_model(tensors())
    run.save_state(3, State(tensors(), {}))
    own = {"config.json", "model.safetensors", "state"}
    (tmp_path / "state/notes.txt").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".config.json.77.json").write_text("left over")
    (tmp_path / "elsewhere").mkdir()
    assert run.start({**REQUEST, "seed": 1}, overwrite=True) is None
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"state/notes.txt", "notes.txt"}
    assert own - {"state"} <= set(run_module.FILES)


def test_a_write_cut_off_before_the_first_config_is_no_obstacle(tmp_path: Path):
    (tmp_path / ".config.json.1234.json").write_text('{"half')
    run = Run(tmp_path)
    assert run.start(REQUEST, overwrite=False) is None
    run.write_config(CONFIG)
    assert run.start(REQUEST, overwrite=False) == {"schema": 1, **CONFIG}


def test_a_place_that_cannot_be_written_shows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/run", tmp_path / ("x" * 5000)):
        with pytest.raises(InputError, match=r"is a file; choose another|Not a directory|File name too long") as error:
            Run(path).start(REQUEST, overwrite=False)
            with Run(path).locked():
                pass
        assert str(path) in str(error.value)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot write .*Permission denied"), Run(tmp_path / "new").locked():
        pass


def test_nothing_is_left_of_a_run_that_did_not_come_to_be(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "deep/down/run", tmp_path / "mine"):
        with pytest.raises(InputError, match="refused"), Run(path).locked():
            raise InputError("refused")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path: Path):
    """Neither before its first config nor after, and `start` sees a folder that holds nothing else as new."""
    code = """
import os, signal, sys
from jensen.training.run import Run
with Run(sys.argv[1]).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == b"locked\n"
    run = Run(tmp_path / "run")
    with (
        pytest.raises(InputError, match=f"another process is fitting into '{tmp_path / 'run'}'; wait .*-o"),
        run.locked(),
    ):
        pass
    assert (tmp_path / "run/state/lock").exists()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert (tmp_path / "run/state/lock").exists()
    assert run.start(REQUEST, overwrite=False) is None
    with run.locked():
        run.write_config(CONFIG)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path):
    run = claimed(tmp_path)
    for step in (1, 2, 3):
        run.save_state(step, State({"x": torch.tensor([float(step)])}, {"k": step}))
    assert len(list((tmp_path / "state").iterdir())) == 2
    newest = tmp_path / "state/step-000000003.safetensors"
    for damage in (
        b"",
        newest.read_bytes()[:-1],
        b"\x80\x04pickle",
        struct.pack("<Q", 2**62),
        newest.read_bytes()[:20],
    ):
        newest.write_bytes(damage)
        step, state = run.load_state()
        assert (step, float(state.tensors["x"]), state.numbers) == (2, 2.0, {"k": 2})
    for metadata in ({}, {"numbers": "[]"}, {"numbers": "{}"}, {"numbers": "x"}):
        save_file({"x": torch.zeros(1)}, newest, metadata)
        assert run.load_state()[0] == 2


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_leaves_the_checkpoint_before(
    where: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = claimed(tmp_path)
    run.save_state(1, State({"x": torch.ones(1)}, {}))
    run.write_model(tensors())
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, where, fail)
    for write in (
        lambda: run.save_state(2, State({"x": torch.zeros(1)}, {})),
        lambda: run.write_model({"x": torch.zeros(1)}),
    ):
        with pytest.raises(InputError, match=f"cannot write .*{os.strerror(code)}.*run the same command again"):
            write()
    assert run.load_state()[0] == 1
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "config.json",
        "model.safetensors",
        "state",
        "step-000000001.safetensors",
    ]


def test_a_full_disk_while_tensors_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = claimed(tmp_path)
    monkeypatch.setattr(run_module, "save_file", fail)
    with pytest.raises(InputError, match="No space left"):
        run.write_model(tensors())
    assert not run.finished


def test_the_bytes_depend_on_the_tensors_only(tmp_path: Path):
    Run(tmp_path / "a").write_model(tensors())
    Run(tmp_path / "b").write_model(dict(reversed(tensors().items())))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


# Loading what someone else made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "good"
    jensen.fit(ROWS, "gaussian", run=path, progress=False)
    return path


def copied(good: Path, to: Path) -> Path:
    to.mkdir()
    for name in ("config.json", "model.safetensors"):
        (to / name).write_bytes((good / name).read_bytes())
    return to


def changed(config: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    *path, last = where.split(".")
    inner = config
    for name in path:
        inner = inner[name]
    inner[last] = value
    return config


HOSTILE_CONFIGS = {
    "schema": ("schema", 99),
    "schema type": ("schema", [1]),
    "no data": ("data", None),
    "data list": ("data", []),
    "unknown model": ("model.word", "os:system"),
    "model list": ("model.word", ["gaussian"]),
    "options list": ("model.options", ["a"]),
    "unknown option": ("model.options", {"bogus": 1}),
    "a billion dimensions": ("data.event_shape", [10**9]),
    "beyond integers": ("data.event_shape", [10**30]),
    "product beyond integers": ("data.event_shape", [10**9, 10**9, 10**9]),
    "negative shape": ("data.event_shape", [-3]),
    "no shape": ("data.event_shape", []),
    "shape of words": ("data.event_shape", ["a"]),
    "shape is a number": ("data.event_shape", 3),
    "other shape": ("data.event_shape", [4]),
    "dtype": ("data.dtype", "object"),
    "dtype list": ("data.dtype", []),
    "space": ("data.space", {"type": "levels", "k": 10**9}),
    "space list": ("data.space", []),
    "codec type": ("codec.type", "exec"),
    "codec NaN": ("codec.shift", [float("nan")] * 3),
    "codec zero": ("codec.scale", [0.0] * 3),
    "codec shape": ("codec.scale", [1.0] * 4),
    "codec ragged": ("codec.scale", [[1.0], 2.0]),
    "codec words": ("codec.scale", ["a"]),
    "codec deep": ("codec.scale", None),
}


@pytest.mark.parametrize("what", HOSTILE_CONFIGS)
def test_a_config_that_cannot_be_is_one_clear_error(what: str, good: Path, tmp_path: Path):
    run = copied(good, tmp_path / "bad")
    config = changed(json.loads((good / "config.json").read_text()), *HOSTILE_CONFIGS[what])
    text = json.dumps(config)
    if what == "codec deep":
        text = text.replace('"scale": null', '"scale": ' + "[" * 300 + "]" * 300)
    (run / "config.json").write_text(text)
    began = time.process_time()
    with pytest.raises(InputError, match=r"bad/config\.json'") as error:
        jensen.load(run)
    assert time.process_time() - began < 5
    assert not re.search(r"[A-Z]\w+Error|NoneType|unhashable|subscript|dict\b|recursion", str(error.value)), error.value
    assert len(str(error.value)) < 500


def test_a_config_beyond_memory_is_refused_before_it_is_taken(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "available_memory", lambda: 1 << 30)
    for word, options in (("independent", {}), ("diffusion", {"network": "mlp", "timesteps": 5})):
        run = copied(good, tmp_path / word)
        config = json.loads((good / "config.json").read_text())
        config["data"]["event_shape"] = [1 << 30]
        config["codec"] |= {"shift": 0.0, "scale": 1.0}
        config["model"] = {"word": word, "options": options}
        (run / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            InputError, match=r"the model that .*config\.json' describes promises .*of memory are available"
        ):
            jensen.load(run)


def test_what_no_file_keeps_is_counted_too(monkeypatch: pytest.MonkeyPatch):
    """The masks of a masked network are as large as its weights: a memory that holds the weights alone is too small."""
    config = described("ar", {"network": "made", "conditional": "normal-mixture"}, [300], {"type": "real"})
    kept = sum(t.numel() * t.element_size() for t in skeleton(config).values())
    monkeypatch.setattr(files, "available_memory", lambda: int(1.5 * kept * files.COPIES / files.MEMORY_SHARE))
    with pytest.raises(InputError, match=r"the model promises .*of memory are available"):
        skeleton(config)
    monkeypatch.setattr(files, "available_memory", lambda: int(2.5 * kept * files.COPIES / files.MEMORY_SHARE))
    skeleton(config)


def described(word: str, options: dict[str, Any], event: list[int], space: dict[str, Any]) -> dict[str, Any]:
    """A config by hand."""
    data = {"facts": {}, "fingerprint": "", "event_shape": event, "dtype": "float32", "space": space, "class_names": []}
    codec = {"type": "affine", "shift": 0.0, "scale": 1.0}
    return {"data": data, "codec": codec, "model": {"word": word, "options": options}}


@pytest.mark.parametrize("scale", [1e-320, 1e308])
def test_a_codec_that_leaves_no_levels_is_refused(scale: float):
    config = described("independent", {}, [4], {"type": "levels", "k": 256})
    config["codec"] |= {"scale": scale, "shift": 1e308}
    with pytest.raises(InputError, match=r"config\.json' cannot be read: levels must be finite and apart, got first"):
        skeleton(config, "run")


REAL, LEVELS = {"type": "real"}, {"type": "levels", "k": 256}
ABSURD: list[tuple[str, dict[str, Any], list[int], dict[str, Any]]] = [
    ("independent", {}, [1 << 22], LEVELS),
    ("independent", {}, [1 << 26], REAL),
    ("gaussian", {}, [9000], REAL),
    ("gmm", {"n_components": 10**12}, [4], REAL),
    ("gmm", {"n_components": 10**8, "covariance": "diag"}, [4], REAL),
    ("gmm", {"n_components": 7, "covariance": "full"}, [6000], REAL),
    ("gmm", {"n_components": 100, "covariance": "factors", "rank": 10**9}, [3000], REAL),
    ("kde", {"rows": 10**12}, [4], REAL),
    ("kde", {"rows": 1 << 25}, [4], REAL),
    ("kde", {"rows": 1 << 26}, [2], LEVELS),
    ("jittered", {"rows": 1 << 26}, [2], REAL),
    ("hmm", {"n_states": 10**9}, [4], REAL),
    ("hmm", {"n_states": 12_000}, [4], REAL),
    ("hmm", {"n_states": 10_000, "emission": "mixture", "n_components": 10**6}, [4], REAL),
    ("bayes-net", {}, [1 << 29], LEVELS),
    ("bayes-net", {"edges": "0>1"}, [1 << 29], LEVELS),
    ("bayes-net", {"edges": "0>3,1>3,2>3"}, [4], LEVELS),
    ("naive-bayes", {"n_classes": 10**12}, [4], REAL),
    ("naive-bayes", {"n_classes": 100, "family": "kde", "rows": 10**6}, [1], REAL),
    ("naive-bayes", {"n_classes": 2, "family": "mixture", "n_components": 10**7}, [1], REAL),
    ("naive-bayes", {"n_classes": 100}, [3000], LEVELS),
    ("ar", {"network": "made", "conditional": "normal-mixture", "n_components": 1000}, [3000], REAL),
    ("ar", {"network": "made", "size": "base"}, [2000], LEVELS),
    ("ar", {"network": "made"}, [1 << 30], LEVELS),
    ("flow", {"layers": 64, "width": 4096, "depth": 16, "bins": 128}, [4096], REAL),
    ("flow", {"layers": 4, "width": 4096, "depth": 1, "bins": 2}, [64], REAL),
    ("ppca", {"n_components": 10**6}, [1 << 24], REAL),
    ("vae", {"network": "mlp", "width": 1 << 16}, [1 << 16], REAL),
    ("vae", {"network": "mlp", "latent_dim": 4096, "posterior": "full"}, [64], REAL),
    ("vae", {"network": "mlp", "prior": "vamp", "prior_components": 10_000}, [1 << 18], REAL),
    ("vae", {"network": "conv", "width": 1 << 16}, [3, 8, 8], LEVELS),
    ("vae", {"network": "mlp", "depth": 0, "emission": "categorical"}, [1 << 21], LEVELS),
    ("autoencoder", {"network": "mlp", "width": 1 << 14}, [1 << 20], REAL),
    ("gan", {"width": 1 << 16, "depth": 16}, [4], REAL),
    ("diffusion", {"network": "mlp"}, [1 << 20], REAL),
    ("diffusion", {"network": "mlp", "head_features": 256}, [1 << 18], LEVELS),
]
LIMITED = """
import json, resource, sys, time
from pathlib import Path
from jensen.config import built, skeleton
from jensen.errors import InputError
for config in json.loads(sys.argv[1])[:1] + json.loads(sys.argv[1]):  # once to import all that is wanted
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    began = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (before + (1 << 30), resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        skeleton(config, "run")
        told = "let through"
    except InputError as error:
        told = str(error)
    except BaseException as error:
        told = repr(error)
    print(json.dumps([told, time.process_time() - began]))
"""


def test_absurd_sizes_are_refused_where_a_gigabyte_is_left():
    """Every model word, in a process that may take 1 GiB more: each is one clear line, before the memory is taken."""
    pytest.importorskip("resource")
    configs = json.dumps([described(*one) for one in ABSURD])
    done = subprocess.run([sys.executable, "-c", LIMITED, configs], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert {one[0] for one in ABSURD} == set(MODELS)
    assert len(found) == len(ABSURD)
    refused = r"of memory are available|do not fit in memory|at most|must be from|too (large|many)"
    wrong = [
        (one, told, seconds)
        for one, (told, seconds) in zip(ABSURD, found, strict=True)
        if not re.search(refused, told) or "is damaged" in told or seconds > 20
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("data.event_shape", [10**30], r"data\.event_shape must be 1 to 8 whole numbers from 1 .* 1,073,741,824, got"),
        ("data.event_shape", None, r"data\.event_shape must be a list of whole numbers, got None"),
        ("model.options", None, r"model\.options must be an object, got None"),
        (
            "codec.scale",
            [[1.0], 2.0],
            r"codec\.scale must be finite numbers in lists of equal lengths, got \[\[1\.0\], 2",
        ),
        ("codec.shift", [1.0] * 4, r"codec\.shift has shape \(4,\), which does not fit rows of shape \(3,\)"),
        ("data.dtype", "object", r"data\.dtype must be one of uint8, .*, got 'object'"),
        ("data.facts.size", "big", r"data\.facts\.size must be a list of whole numbers, got 'big'"),
        ("model.word", "gausian", r"unknown model 'gausian'; did you mean 'gaussian'\?"),
    ],
)
def test_a_damaged_field_is_named(where: str, value: Any, message: str, good: Path, tmp_path: Path):
    run = copied(good, tmp_path / "bad")
    (run / "config.json").write_text(json.dumps(changed(json.loads((good / "config.json").read_text()), where, value)))
    with pytest.raises(InputError, match=f"bad/config\\.json' cannot be read: {message}"):
        jensen.load(run)


HUGE_OPTIONS: dict[str, Any] = {
    "timesteps": 10**12,
    "size": "galactic",
    "betas": [2.0],
    "log_snr_start": float("nan"),
    "dropout": -1,
    "network": 5,
    "reverse_variance": "x",
    "parametrisation": None,
}


@pytest.mark.parametrize("name", HUGE_OPTIONS)
def test_absurd_options_are_one_clear_error(name: str, good: Path, tmp_path: Path):
    run = copied(good, tmp_path / "bad")
    config = json.loads((good / "config.json").read_text())
    options = {"size": "tiny", name: HUGE_OPTIONS[name]} | ({"schedule": "betas"} if name == "betas" else {})
    (run / "config.json").write_text(json.dumps({**config, "model": {"word": "diffusion", "options": options}}))
    with pytest.raises(InputError, match="bad"):
        jensen.load(run)


def header(claims: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(claims).encode()
    return struct.pack("<Q", len(text)) + text + data


def huge(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"mean": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


HOSTILE_WEIGHTS = {
    "empty": b"",
    "pickle": pickle.dumps({"mean": [1, 2, 3]}),
    "header of 2^62 bytes": struct.pack("<Q", 2**62) + b"{}",
    "a terabyte promised": header(huge("F64", [10**12], 8 * 10**12)),
    "overflowing shape": header(huge("F64", [2**40, 2**40], 8)),
    "text": b"mean = 3",
    "zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize(
    "what", [*HOSTILE_WEIGHTS, "truncated", "missing", "extra", "other shape", "other type", "a folder"]
)
def test_weights_that_do_not_fit_are_one_clear_error(what: str, good: Path, tmp_path: Path):
    run = copied(good, tmp_path / "bad")
    path = run / "model.safetensors"
    state = jensen.load(good).model.state_dict()
    state = {name: tensor.clone() for name, tensor in state.items()}
    match what:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-8])
        case "missing":
            save_file({"mean": state["mean"]}, path)
        case "extra":
            save_file({**state, "zzz": torch.zeros(1)}, path)
        case "other shape":
            save_file({**state, "mean": torch.zeros(4, dtype=torch.float64)}, path)
        case "other type":
            save_file({**state, "mean": torch.zeros(3)}, path)
        case "a folder":
            path.unlink()
            path.mkdir()
        case _:
            path.write_bytes(HOSTILE_WEIGHTS[what])
    with pytest.raises(InputError, match="bad"):
        jensen.load(run)


def test_what_is_no_run_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        jensen.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no config\.json"):
        jensen.load(tmp_path)
    claimed(tmp_path / "begun")
    with pytest.raises(InputError, match=r"config\.json' cannot be read: data\.facts must be an object, got None"):
        jensen.load(tmp_path / "begun")


def test_an_oversized_config_is_not_read(good: Path, tmp_path: Path):
    run = copied(good, tmp_path / "bad")
    with (run / "config.json").open("r+b") as file:
        file.truncate(100 << 20)
    with pytest.raises(InputError, match="larger than 16 MiB"):
        jensen.load(run)
